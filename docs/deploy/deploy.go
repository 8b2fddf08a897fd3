// Package deploy holds the files that put gracerun on a host; docs/deploy.md tells
// where they go.
package deploy

import _ "embed"

// SELinux is the script that labels the programs: gracerun-selinux.
//
//go:embed gracerun-selinux
var SELinux string
