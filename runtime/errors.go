// Package runtime holds what all that touches an OCI runtime shares: the error
// texts that callers match on, the stop policies, and annotations.
//
// Its sub-packages know the state directory (statedir), the bundle (bundle) and
// the wrapped runtime (oci). None of them knows the supervisor.
package runtime

import "errors"

// Errors whose texts are runc's, to the letter (libcontainer/error.go, 1.1.0 to
// 1.5.1), because engines look for parts of them in standard error:
//
//   - CRI-O (internal/oci/runtime_oci.go, runtimeCmd) takes a container for gone
//     on "container not running", "no such process" or "invalid process". Its
//     comparison minds the case, so that crun's "No such process" does not count.
//   - containerd (cmd/containerd-shim-runc-v2/process/utils.go, checkKillError):
//     "container not running", "no such process" in any case, "os: process
//     already finished"; and "does not exist" for a container never known.
//   - Podman up to 5.0 (libpod/oci_conmon_common.go, UpdateContainerStatus):
//     "does not exist" or "No such file" in what `state` printed. It also reads
//     the log of a failed create (libpod/oci_util.go, getOCIRuntimeError) and
//     makes exit code 127 of "no such file or directory" or "executable file
//     not found in", and 126 of "permission denied" or "operation not permitted".
//
// crun says the same in other words: "container `ID` does not exist: error
// opening file ..." (1.23; before, without the first part), "container `ID`
// already exists", "kill container: No such process" (before 1.17), "container
// not running: No such process" (1.17 to 1.21), "process not running: No such
// process" (1.23 and later). runc's words satisfy every caller; crun's don't.
var (
	ErrNotExist   = errors.New("container does not exist")
	ErrExist      = errors.New("container with given ID already exists")
	ErrInvalidID  = errors.New("invalid container ID format")
	ErrNotRunning = errors.New("container not running")
	ErrPaused     = errors.New("container paused")
	ErrNotPaused  = errors.New("container not paused")
)
