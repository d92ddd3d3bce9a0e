// Package node puts the parts of a process together: what a coordinator, a
// worker, or both in one process, are made of. The commands start them from
// their flags; nothing here knows of flags, signals or exit codes.
package node
