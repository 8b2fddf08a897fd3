package native

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// execFlags are those flags of exec that describe the process.
type execFlags struct {
	processFile, cwd, user, label, apparmor string
	env, caps, groups                       texts
	tty, noNewPrivs, noNewPrivsGiven        bool
}

func (e *execFlags) declare(flags *flag.FlagSet) {
	flags.StringVar(&e.processFile, "process", "", "`file` that describes the process, as config.json does")
	flags.StringVar(&e.cwd, "cwd", "", "working `directory` in the container")
	flags.StringVar(&e.user, "user", "", "`UID[:GID]` to run as")
	flags.StringVar(&e.label, "process-label", "", "SELinux `label`")
	flags.StringVar(&e.apparmor, "apparmor", "", "AppArmor `profile`")
	flags.Var(&e.env, "env", "set a variable: `NAME=VALUE`, may be repeated")
	flags.Var(&e.caps, "cap", "add a `capability`, may be repeated")
	flags.Var(&e.groups, "additional-gids", "add a `GID`, may be repeated")
	flags.BoolVar(&e.tty, "tty", false, "allocate a terminal")
	flags.BoolVar(&e.noNewPrivs, "no-new-privs", false, "let it gain no privileges")
	for name, short := range map[string]string{
		"process": "p", "user": "u", "env": "e", "cap": "c", "additional-gids": "g", "tty": "t",
	} {
		alias(flags, name, short)
	}
}

func execCommand(flags *flag.FlagSet) action {
	var l launch
	var e execFlags
	l.declare(flags)
	e.declare(flags)
	flags.BoolVar(&l.detach, "detach", false, "do not wait for the process")
	alias(flags, "detach", "d")
	ignorePaused := flags.Bool("ignore-paused", false, "do not refuse if the container is paused")
	var cgroups texts
	flags.Var(&cgroups, "cgroup", "run it in a sub-cgroup: `[CONTROLLER[,...]:]PATH`, may be repeated")
	return func(g *globals, args []string) error {
		flags.Visit(func(f *flag.Flag) { e.noNewPrivsGiven = e.noNewPrivsGiven || f.Name == "no-new-privs" })
		status, err := func() (int, error) {
			if err := absolute(&l.pidFile); err != nil {
				return -1, err
			}
			var err error
			if l.container, err = loadForExec(g, args[0], *ignorePaused); err != nil {
				return -1, err
			}
			process, err := e.process(l.container, args[1:])
			if err != nil {
				return -1, err
			}
			if l.subCgroups, err = parseSubCgroups(cgroups); err != nil {
				return -1, err
			}
			l.start = l.container.Run
			return l.run(process)
		}()
		if err != nil {
			return &exitCoder{fmt.Errorf("exec failed: %w", err), 255}
		}
		return processExit(status)
	}
}

func loadForExec(g *globals, id string, pausedToo bool) (*libcontainer.Container, error) {
	container, status, err := loadWithStatus(g, id)
	switch {
	case err != nil:
		return nil, err
	case status == libcontainer.Stopped:
		return nil, errors.New("cannot exec in a stopped container")
	case status == libcontainer.Paused && !pausedToo:
		return nil, errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	return container, nil
}

// process gives the process that the file describes, or else the container's
// own with the changes that the flags ask for.
func (e *execFlags) process(container *libcontainer.Container, args []string) (*specs.Process, error) {
	if e.processFile != "" {
		text, err := os.ReadFile(e.processFile)
		if err != nil {
			return nil, err
		}
		var p specs.Process
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, err
		}
		return &p, checkProcess(&p)
	}
	bundle, found := utils.SearchLabels(container.Config().Labels, "bundle")
	if !found {
		return nil, errors.New("bundle not found in labels")
	}
	spec, err := loadConfig(bundle)
	if err != nil {
		return nil, err
	}
	if len(args) == 0 {
		return nil, errors.New("exec args cannot be empty")
	}
	p := spec.Process
	p.Args = args
	if err := e.change(p); err != nil {
		return nil, err
	}
	return p, checkProcess(p)
}

func (e *execFlags) change(p *specs.Process) error {
	p.Terminal = e.tty // whatever the container's own has
	p.Env = append(p.Env, e.env...)
	override(&p.Cwd, e.cwd)
	override(&p.SelinuxLabel, e.label)
	override(&p.ApparmorProfile, e.apparmor)
	if e.noNewPrivsGiven {
		p.NoNewPrivileges = e.noNewPrivs
	}
	e.addCapabilities(p)
	if err := e.changeUser(&p.User); err != nil {
		return err
	}
	for _, text := range e.groups {
		gid, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("bad additional gid: %w", err)
		}
		if gid < 0 {
			return fmt.Errorf("additional-gids must be a positive number %d", gid)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(gid))
	}
	return nil
}

func override(field *string, value string) {
	if value != "" {
		*field = value
	}
}

// addCapabilities leaves the inheritable set alone. The kernel allows no ambient
// capability that is not inheritable, so these follow only if there are any.
func (e *execFlags) addCapabilities(p *specs.Process) {
	if len(e.caps) == 0 {
		return
	}
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	sets := []*[]string{&p.Capabilities.Bounding, &p.Capabilities.Effective, &p.Capabilities.Permitted}
	if p.Capabilities.Inheritable != nil {
		sets = append(sets, &p.Capabilities.Ambient)
	}
	for _, set := range sets {
		*set = append(*set, e.caps...)
	}
}

func (e *execFlags) changeUser(user *specs.User) error {
	if e.user == "" {
		return nil
	}
	uidText, gidText, both := strings.Cut(e.user, ":")
	uid, err := strconv.ParseUint(uidText, 10, 32)
	if err != nil {
		return fmt.Errorf("bad uid: %w", err)
	}
	user.UID = uint32(uid)
	if !both {
		return nil
	}
	gid, err := strconv.ParseUint(gidText, 10, 32)
	if err != nil {
		return fmt.Errorf("bad gid: %w", err)
	}
	user.GID = uint32(gid)
	return nil
}

// parseSubCgroups reads the values of --cgroup: one path alone for cgroup v2,
// whose controller is called "", or a path for some controllers of v1 each.
func parseSubCgroups(values []string) (map[string]string, error) {
	if len(values) == 0 {
		return nil, nil
	}
	paths := map[string]string{}
	for _, value := range values {
		controllers, path, named := strings.Cut(value, ":")
		if !named {
			if len(values) > 1 {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (missing <controller>: prefix)", value)
			}
			return map[string]string{"": value}, nil
		}
		for controller := range strings.SplitSeq(controllers, ",") {
			if controller == "" {
				return nil, fmt.Errorf("invalid --cgroup argument: %s (empty <controller> prefix)", value)
			}
			if _, twice := paths[controller]; twice {
				return nil, fmt.Errorf("invalid --cgroup argument(s): controller %s specified multiple times", controller)
			}
			paths[controller] = path
		}
	}
	return paths, nil
}
