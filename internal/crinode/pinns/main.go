// Command pinns stands in for CRI-O's helper of that name in tests: it makes
// namespaces and pins them to files, on which CRI-O has the containers of a pod
// join them.
//
//	pinns -d DIR -f NAME [-s KEY=VALUE]... [--ipc[=host]] [--uts[=host]] [--net[=host]] [--user[=host]]
//	      [--uid-mapping=MAP] [--gid-mapping=MAP]
//
// A namespace is pinned by a bind mount on DIR/{ipc,uts,net,user}ns/NAME. A map is
// CONTAINER-HOST-SIZE with an @ after each entry.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// member is the argument with which this program is itself the process in the
// new namespaces: it sets the sysctls that follow, says so, and stays until it
// has been pinned.
const member = "member"

var flags = map[string]uintptr{
	"ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "net": unix.CLONE_NEWNET, "user": unix.CLONE_NEWUSER,
}

func main() {
	var err error
	if len(os.Args) > 1 && os.Args[1] == member {
		err = beMember(os.Args[2:])
	} else {
		err = pin(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pinns:", err)
		os.Exit(1)
	}
}

type request struct {
	dir, name string
	own, host []string // kinds of namespaces: to be made, and the caller's
	sysctls   []string
	uids      []syscall.SysProcIDMap
	gids      []syscall.SysProcIDMap
}

func parse(args []string) (*request, error) {
	r := &request{}
	for len(args) > 0 {
		key, value, given := strings.Cut(args[0], "=")
		args = args[1:]
		var err error
		switch key {
		case "-d", "-f", "-s":
			if len(args) == 0 {
				return nil, fmt.Errorf("%s needs a value", key)
			}
			value, args = args[0], args[1:]
			switch key {
			case "-d":
				r.dir = value
			case "-f":
				r.name = value
			case "-s":
				r.sysctls = append(r.sysctls, value)
			}
		case "--uid-mapping":
			r.uids, err = parseMap(value)
		case "--gid-mapping":
			r.gids, err = parseMap(value)
		default:
			kind := strings.TrimPrefix(key, "--")
			switch {
			case flags[kind] == 0 || given && value != "host":
				return nil, fmt.Errorf("unknown argument %q", key)
			case given:
				r.host = append(r.host, kind)
			default:
				r.own = append(r.own, kind)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	if r.dir == "" || r.name == "" {
		return nil, fmt.Errorf("-d DIR and -f NAME are missing")
	}
	return r, nil
}

func parseMap(text string) (entries []syscall.SysProcIDMap, err error) {
	for entry := range strings.SplitSeq(strings.TrimSuffix(text, "@"), "@") {
		var numbers [3]int
		fields := strings.Split(entry, "-")
		if len(fields) != len(numbers) {
			return nil, fmt.Errorf("%q is not CONTAINER-HOST-SIZE", entry)
		}
		for i, field := range fields {
			if numbers[i], err = strconv.Atoi(field); err != nil {
				return nil, err
			}
		}
		entries = append(entries, syscall.SysProcIDMap{ContainerID: numbers[0], HostID: numbers[1], Size: numbers[2]})
	}
	return entries, nil
}

func pin(args []string) error {
	r, err := parse(args)
	if err != nil {
		return err
	}
	for _, kind := range r.host {
		if err := r.mount(kind, "self"); err != nil {
			return err
		}
	}
	if r.own == nil {
		return nil
	}
	child := exec.Command("/proc/self/exe", append([]string{member}, r.sysctls...)...)
	attr := &syscall.SysProcAttr{UidMappings: r.uids, GidMappings: r.gids}
	for _, kind := range r.own {
		attr.Cloneflags |= flags[kind]
	}
	child.SysProcAttr, child.Stderr = attr, os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		return err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return fmt.Errorf("a process in new namespaces: %w", err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		_ = child.Wait()
		return fmt.Errorf("the process in the new namespaces: %w", err)
	}
	for _, kind := range r.own {
		if err := r.mount(kind, strconv.Itoa(child.Process.Pid)); err != nil {
			_ = child.Process.Kill()
			_ = child.Wait()
			return err
		}
	}
	in.Close()
	return child.Wait()
}

func (r *request) mount(kind, pid string) error {
	path := filepath.Join(r.dir, kind+"ns", r.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	file.Close()
	source := "/proc/" + pid + "/ns/" + kind
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, path, err)
	}
	return nil
}

func beMember(sysctls []string) error {
	for _, sysctl := range sysctls {
		key, value, _ := strings.Cut(sysctl, "=")
		path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
