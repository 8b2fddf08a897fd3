// Package races carries the scenarios of `gracelab reproduce` and their
// workloads, so that gracelab needs no files besides itself.
package races

import "embed"

// Files holds the scenarios, *.yaml, and workloads/*.sh.
//
//go:embed *.yaml workloads/*.sh
var Files embed.FS
