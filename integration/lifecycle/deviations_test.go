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
}

var deviations = []deviation{
	{all, "create/no process", "process is checked at create already: a container without one could never be started"},
	{all, "delete/created container", "a created container is killed and deleted, which engines rely on to clean up"},
	{all, "hooks/a failing startContainer fails start", "the hook runs in init, and start does not wait for it"},
	{runc, "hooks/order", "poststart hooks run in create"},
	{runc, "hooks/poststart runs in start", "poststart hooks run in create"},
	{runc, "hooks/state on standard input", "poststart hooks run in create and are told so"},
	{runc, "hooks/a failing poststart fails start", "poststart hooks run in create, which fails"},
	{runc, "hooks/a failing poststop changes nothing", "the poststop hooks after one that fails are left out"},
	{crun, "hooks/a failing poststart fails start", "specification 1.0 asked for a warning only"},
	{crun, "hooks/poststop runs after a failed create", "the container is removed without its poststop hooks"},
	{crun, "hooks/state on standard input", "startContainer hooks are told / as the bundle and a status that the specification does not have"},
	{crun, "kill/no such signal", "an unknown name is taken for signal 0, which nobody notices"},
}

var (
	runc = []string{"runc version 1."}
	crun = []string{"crun version 1.8.1"}
	all  = append(append([]string{"gracerun-native version"}, runc...), crun...)
)

// deviationOf also finds those of the runtime that gracerun wraps.
func deviationOf(r *runtimeUnderTest, name string) *deviation {
	if r.wrapped != nil {
		r = r.wrapped
	}
	i := slices.IndexFunc(deviations, func(d deviation) bool {
		return d.name == name && slices.ContainsFunc(d.runtimes, func(version string) bool {
			return strings.HasPrefix(r.version, version)
		})
	})
	if i < 0 {
		return nil
	}
	return &deviations[i]
}
