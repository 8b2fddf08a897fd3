//go:build tools

// Package tools names the programs of runtime-tools that ./run builds, so that
// this module's go.mod keeps their dependencies: release 0.9.0 compiles only with
// those of its time.
package tools

import (
	_ "github.com/opencontainers/runtime-tools/cmd/runtimetest"
	_ "github.com/opencontainers/runtime-tools/validation/util"
)
