package native

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// configFile is the container's configuration, in its bundle.
const configFile = "config.json"

// loadConfig changes into the bundle, which relative paths in config.json start
// from, and reads it.
func loadConfig(bundle string) (*specs.Spec, error) {
	if bundle != "" {
		if err := os.Chdir(bundle); err != nil {
			return nil, err
		}
	}
	file, err := os.Open(configFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("JSON specification file %s not found", configFile)
	} else if err != nil {
		return nil, err
	}
	defer file.Close()
	var spec *specs.Spec
	if err := json.NewDecoder(file).Decode(&spec); err != nil {
		return nil, err
	}
	if spec == nil {
		return nil, errors.New("config cannot be null")
	}
	return spec, checkProcess(spec.Process)
}

// checkProcess finds the faults of a process that libcontainer would trip over
// only inside the container, where they are hard to explain.
func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process property must not be empty")
	case p.Cwd == "":
		return errors.New("process.cwd must not be empty")
	case !filepath.IsAbs(p.Cwd):
		return errors.New("process.cwd must be an absolute path")
	case len(p.Args) == 0:
		return errors.New("process.args must not be empty")
	case p.SelinuxLabel != "" && !selinux.GetEnabled():
		return errors.New("selinux label is specified in config, but selinux is disabled or not supported")
	}
	return nil
}

// newProcess translates a process of the OCI configuration to libcontainer's.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	rlimits, err := newRlimits(p.Rlimits)
	if err != nil {
		return nil, err
	}
	affinity, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	if err != nil {
		return nil, err
	}
	process := &libcontainer.Process{
		Args:            p.Args,
		Env:             p.Env,
		Cwd:             p.Cwd,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		Rlimits:         rlimits,
		NoNewPrivileges: &p.NoNewPrivileges,
		AppArmorProfile: p.ApparmorProfile,
		Label:           p.SelinuxLabel,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
		CPUAffinity:     affinity,
	}
	for _, gid := range p.User.AdditionalGids {
		process.AdditionalGroups = append(process.AdditionalGroups, int(gid))
	}
	if size := p.ConsoleSize; size != nil {
		process.ConsoleWidth, process.ConsoleHeight = uint16(size.Width), uint16(size.Height)
	}
	if caps := p.Capabilities; caps != nil {
		process.Capabilities = &configs.Capabilities{
			Bounding:    caps.Bounding,
			Effective:   caps.Effective,
			Inheritable: caps.Inheritable,
			Permitted:   caps.Permitted,
			Ambient:     caps.Ambient,
		}
	}
	return process, nil
}

func newRlimits(limits []specs.POSIXRlimit) (rlimits []configs.Rlimit, err error) {
	for _, l := range limits {
		resource, known := resources[l.Type]
		if !known {
			return nil, errors.New("wrong rlimit value: " + l.Type)
		}
		rlimits = append(rlimits, configs.Rlimit{Type: resource, Hard: l.Hard, Soft: l.Soft})
	}
	return rlimits, nil
}

// resources are what setrlimit(2) limits.
var resources = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE,
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

func specCommand(flags *flag.FlagSet) action {
	bundle := flags.String("bundle", "", "`directory` to write it to (default: the current one)")
	alias(flags, "bundle", "b")
	rootless := flags.Bool("rootless", false, "for a container of an ordinary user")
	return func(_ *globals, _ []string) error {
		spec := specconv.Example()
		if *rootless {
			specconv.ToRootless(spec)
		}
		text, err := json.MarshalIndent(spec, "", "\t")
		if err != nil {
			return err
		}
		file, err := os.OpenFile(filepath.Join(*bundle, configFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("file %s exists: remove it first", configFile)
		} else if err != nil {
			return err
		}
		_, err = file.Write(text)
		return errors.Join(err, file.Close())
	}
}
