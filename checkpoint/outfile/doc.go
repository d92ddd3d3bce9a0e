// Package outfile writes files that appear under their names whole or not at
// all: first under a temporary name in the same folder, then, when their bytes
// are on the disk, renamed. A process or a machine that dies on the way leaves
// the name as it was. The writers of the formats and of a model's side files
// use it.
package outfile
