package native

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
)

// containerState is what `state` and `list` print: the state of the OCI runtime
// specification (runtime.md, "State") and what runc adds to it.
type containerState struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"` // 0 if stopped
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func readState(container *libcontainer.Container) (*containerState, error) {
	status, err := container.Status()
	if err != nil {
		return nil, err
	}
	state, err := container.State()
	if err != nil {
		return nil, err
	}
	s := &containerState{
		OCIVersion: state.Config.Version,
		ID:         state.ID,
		Status:     status.String(),
		Rootfs:     state.Config.Rootfs,
		Created:    state.Created,
	}
	if status != libcontainer.Stopped {
		s.Pid = state.InitProcessPid
	}
	s.Bundle, s.Annotations = utils.Annotations(state.Config.Labels)
	return s, nil
}

func stateCommand(*flag.FlagSet) action {
	return func(g *globals, args []string) error {
		container, err := load(g, args[0])
		if err != nil {
			return err
		}
		state, err := readState(container)
		if err != nil {
			return err
		}
		text, err := json.MarshalIndent(state, "", "  ")
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(text)
		return err
	}
}

func listCommand(flags *flag.FlagSet) action {
	format := declareFormat(flags)
	quiet := flags.Bool("quiet", false, "show ids only")
	alias(flags, "quiet", "q")
	return func(g *globals, _ []string) error {
		states, err := readStates(g)
		switch {
		case err != nil:
			return err
		case *quiet:
			for _, s := range states {
				fmt.Println(s.ID)
			}
			return nil
		case *format == "json":
			return json.NewEncoder(os.Stdout).Encode(states)
		case *format == "table":
			return printTable(states)
		}
		return errFormat
	}
}

var errFormat = errors.New("invalid format option")

func declareFormat(flags *flag.FlagSet) *string {
	format := flags.String("format", "table", "table or json")
	alias(flags, "format", "f")
	return format
}

// readStates gives the state of every container. One that cannot be read, or
// is being removed just now, does not hide the others.
func readStates(g *globals) (states []*containerState, err error) {
	entries, err := os.ReadDir(g.root)
	if errors.Is(err, fs.ErrNotExist) && !g.rootGiven {
		return nil, nil // no container was ever made
	} else if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		state, err := readListed(g, entry)
		if err != nil {
			fmt.Fprintf(os.Stderr, "container %s: %v\n", entry.Name(), err)
			continue
		}
		states = append(states, state)
	}
	return states, nil
}

func readListed(g *globals, entry fs.DirEntry) (*containerState, error) {
	info, err := entry.Info()
	if err != nil {
		return nil, err
	}
	container, err := libcontainer.Load(g.root, entry.Name())
	if err != nil {
		return nil, err
	}
	state, err := readState(container)
	if err != nil {
		return nil, err
	}
	uid := strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Uid), 10)
	if owner, err := user.LookupId(uid); err == nil {
		state.Owner = owner.Username
	} else {
		state.Owner = "#" + uid
	}
	return state, nil
}

func printTable(states []*containerState) error {
	table := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
	fmt.Fprintln(table, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
	for _, s := range states {
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\n",
			s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
	}
	return table.Flush()
}

func psCommand(flags *flag.FlagSet) action {
	format := declareFormat(flags)
	return func(g *globals, args []string) error {
		container, err := load(g, args[0])
		if err != nil {
			return err
		}
		pids, err := container.Processes()
		switch {
		case err != nil:
			return hintAtCgroups("ps", err)
		case *format == "json":
			return json.NewEncoder(os.Stdout).Encode(pids)
		case *format == "table":
			return printProcesses(pids, args[1:])
		}
		return errFormat
	}
}

// printProcesses shows what ps(1) says of the processes.
func printProcesses(pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	output, err := exec.Command("ps", options...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	title, rest, _ := strings.Cut(string(output), "\n")
	column := slices.Index(strings.Fields(title), "PID")
	if column < 0 {
		return errors.New("couldn't find PID field in ps output")
	}
	fmt.Println(title)
	for line := range strings.Lines(rest) {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		pid, err := strconv.Atoi(fields[column])
		if err != nil {
			return fmt.Errorf("unable to parse pid: %w", err)
		}
		if slices.Contains(pids, pid) {
			fmt.Print(line)
		}
	}
	return nil
}
