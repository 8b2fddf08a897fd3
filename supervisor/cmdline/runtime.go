package cmdline

import "strings"

// RuntimeCommand is the command line that makes the runtime create or restore
// the container or run the exec's process, the program first. console is the
// path of the socket that gets the terminal, "" if there is none.
func (o *Options) RuntimeCommand(console string) []string {
	argv := []string{o.Runtime}
	if o.SystemdCgroup && !o.Exec {
		argv = append(argv, "--systemd-cgroup")
	}
	argv = append(argv, o.RuntimeArgs...)
	switch {
	case o.Exec:
		argv = append(argv, "exec", "--pid-file", o.ContainerPIDFile, "--process", o.ExecProcessSpec, "--detach")
	case o.Restore != "":
		argv = append(o.create(argv, "restore"), "--detach", "--image-path", o.Restore, "--work-path", o.Bundle)
	default:
		argv = o.create(argv, "create")
	}
	argv = append(argv, o.RuntimeOpts...)
	if console != "" {
		argv = append(argv, "--console-socket", console)
	}
	return append(argv, o.ID)
}

func (o *Options) create(argv []string, command string) []string {
	argv = append(argv, command, "--bundle", o.Bundle, "--pid-file", o.ContainerPIDFile)
	if o.NoPivot {
		argv = append(argv, "--no-pivot")
	}
	if o.NoNewKeyring {
		argv = append(argv, "--no-new-keyring")
	}
	return argv
}

// RuntimeRoot is the --root that the runtime is given, "" if none. runc's
// options can also begin with a single dash.
func (o *Options) RuntimeRoot() string {
	root := ""
	for i, arg := range o.RuntimeArgs {
		name, value, hasValue := strings.Cut(arg, "=")
		if name != "--root" && name != "-root" {
			continue
		}
		if !hasValue && i+1 < len(o.RuntimeArgs) {
			value = o.RuntimeArgs[i+1]
		}
		root = value
	}
	return root
}
