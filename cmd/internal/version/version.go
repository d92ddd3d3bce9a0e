// Package version holds the version that the commands report.
package version

// Version is set by the linker: `git describe` of the tree that was built.
var Version = "dev"
