package oci

import "strings"

// Globals are the options that stand before a runtime's command, as far as gracerun
// has to understand them.
type Globals struct {
	Root      string // --root, "" if not given
	Log       string
	LogFormat string
	Debug     bool
	Systemd   bool // --systemd-cgroup, --cgroup-manager=systemd

	// Other is the name of an option that is no global one of crun or runc, or of one
	// that ends the program, as version does.
	Other string
}

// ParseGlobals reads them from the beginning of args, as crun (getopt_long, options in
// order) and runc (urfave/cli: one dash or two) do. n is how many arguments they are,
// without Other; whole is false if the last one lacks its value.
func ParseGlobals(args []string) (g Globals, n int, whole bool) {
	for n < len(args) {
		name, value, hasValue, isOption := Option(args[n])
		if !isOption {
			break
		}
		switch name {
		case "debug":
			g.Debug = value != "false"
		case "systemd-cgroup":
			g.Systemd = value != "false"
		case "root", "log", "log-format", "log-level", "criu", "rootless", "cgroup-manager":
			if !hasValue {
				if n++; n == len(args) {
					return g, n, false
				}
				value = args[n]
			}
			g.set(name, value)
		default:
			g.Other = name
			return g, n, true
		}
		n++
	}
	return g, n, true
}

func (g *Globals) set(name, value string) {
	switch name {
	case "root":
		g.Root = value
	case "log":
		g.Log = value
	case "log-format":
		g.LogFormat = value
	case "cgroup-manager":
		g.Systemd = value == "systemd"
	}
}

// KnownFormat tells whether the runtime has that --log-format.
func (g *Globals) KnownFormat() bool {
	return g.LogFormat == "" || g.LogFormat == "text" || g.LogFormat == "json"
}

// Option takes an argument apart: "--name", "-name", "--name=value".
func Option(arg string) (name, value string, hasValue, isOption bool) {
	if len(arg) < 2 || arg[0] != '-' || arg == "--" {
		return "", "", false, false
	}
	name = strings.TrimPrefix(arg[1:], "-")
	name, value, hasValue = strings.Cut(name, "=")
	return name, value, hasValue, true
}
