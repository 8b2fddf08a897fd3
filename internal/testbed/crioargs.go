package testbed

import "strconv"

// CRIOArgs is what CRI-O tells the monitor of a container: where things are, and
// what it and the container are configured to.
type CRIOArgs struct {
	ID, Name         string
	Bundle           string // with the files for the numbers of both processes
	Log              string
	Exits, Persist   string // directories
	Sockets          string
	Runtime, Root    string
	Systemd          bool  // cgroup_manager
	LogSizeMax       int64 // log_size_max; below 0, as by default: no limit
	NoSyncLog        bool
	Journald         bool // log_to_journald
	NoPivot          bool
	Terminal         bool
	Stdin, StdinOnce bool
	Checkpoint       string // to restore from; "": create
}

// Create gives the arguments in CRI-O's order (internal/oci/runtime_oci.go,
// CreateContainer).
func (a *CRIOArgs) Create() []string {
	args := []string{
		"-b", a.Bundle,
		"-c", a.ID,
		"--exit-dir", a.Exits,
		"-l", a.Log,
		"--log-level", "info",
		"-n", a.Name,
		"-P", a.Bundle + "/conmon-pidfile",
		"-p", a.Bundle + "/pidfile",
		"--persist-dir", a.Persist,
		"-r", a.Runtime,
		"--runtime-arg", "--root=" + a.Root,
		"--socket-dir-path", a.Sockets,
		"--syslog",
		"-u", a.ID,
	}
	if a.Systemd {
		args = append(args, "-s")
	}
	if a.LogSizeMax >= 0 {
		args = append(args, "--log-size-max", strconv.FormatInt(a.LogSizeMax, 10))
	}
	if a.NoSyncLog {
		args = append(args, "--no-sync-log")
	}
	if a.Journald {
		args = append(args, "--log-path", "journald:")
	}
	if a.NoPivot {
		args = append(args, "--no-pivot")
	}
	if a.Terminal {
		args = append(args, "-t")
	} else if a.Stdin {
		if !a.StdinOnce {
			args = append(args, "--leave-stdin-open")
		}
		args = append(args, "-i")
	}
	if a.Checkpoint != "" {
		args = append(args, "--restore", a.Checkpoint,
			"--runtime-opt", "--lsm-profile=selinux:u:r:t:s0", "--runtime-opt", "--lsm-mount-context=u:r:m:s0")
	}
	return args
}
