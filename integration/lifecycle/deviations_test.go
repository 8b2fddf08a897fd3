package lifecycle

import (
	"slices"
	"strings"
)

// A deviation is a case that a runtime is known to fail, and why that is so. The
// test fails when it passes: the list says what is true.
type deviation struct {
	runtimes []string // the first line of --version begins so
	name     string   // of the case
	reason   string

	mended bool // gracerun over it does not deviate
}

var deviations = []deviation{
	{runtimes: all, name: "create/no process", reason: "process is checked at create already: a container without one could never be started"},
	{runtimes: all, name: "delete/created container", reason: "a created container is killed and deleted, which engines rely on to clean up"},
	{runtimes: all, name: "hooks/a failing startContainer fails start", reason: "the hook runs in init, and start does not wait for it"},
	{runtimes: runc, name: "hooks/order", reason: "poststart hooks run in create"},
	{runtimes: runc, name: "hooks/poststart runs in start", reason: "poststart hooks run in create"},
	{runtimes: runc, name: "hooks/state on standard input", reason: "poststart hooks run in create and are told so"},
	{runtimes: runc, name: "hooks/a failing poststart fails start", reason: "poststart hooks run in create, which fails"},
	{runtimes: runc, name: "hooks/a failing poststop changes nothing", reason: "the poststop hooks after one that fails are left out"},
	{runtimes: crun, name: "hooks/a failing poststart fails start", reason: "specification 1.0 asked for a warning only"},
	{runtimes: crun, name: "hooks/poststop runs after a failed create", reason: "the container is removed without its poststop hooks"},
	{runtimes: crun, name: "hooks/state on standard input", reason: "startContainer hooks are told / as the bundle and a status that the specification does not have"},
	{runtimes: crun, name: "kill/no such signal", reason: "an unknown name is taken for signal 0, which nobody notices", mended: true},
}

var (
	runc = []string{"runc version 1."}
	crun = []string{"crun version 1.8.1"}
	all  = append(append([]string{"gracerun-native version"}, runc...), crun...)
)

// deviationOf also finds those of the runtime that gracerun wraps.
func deviationOf(r *runtimeUnderTest, name string) *deviation {
	over := r.wrapped != nil
	if over {
		r = r.wrapped
	}
	i := slices.IndexFunc(deviations, func(d deviation) bool {
		return d.name == name && !(over && d.mended) && slices.ContainsFunc(d.runtimes, func(version string) bool {
			return strings.HasPrefix(r.version, version)
		})
	})
	if i < 0 {
		return nil
	}
	return &deviations[i]
}
