// Package version holds the version of the gracerun programs.
package version

// Version is stamped in by the Makefile's linker flags.
var Version = "unknown"
