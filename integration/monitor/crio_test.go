package monitor

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
)

// Containers and commands made exactly as CRI-O's internal/oci/runtime_oci.go
// makes them: its arguments in its order, its kinds of pipes, its environment,
// its reading of the answers. What is written here as wanted is wanted of
// gracemon and of Debian's conmon.

// A crio is what CRI-O is configured to, as far as it tells its monitor.
type crio struct {
	systemd    bool  // cgroup_manager
	logSizeMax int64 // log_size_max; its default is -1: no limit
	noSyncLog  bool
	journald   bool // log_to_journald
	noPivot    bool

	terminal, stdin, stdinOnce bool // of the container

	checkpoint string // to restore from; "": create
}

const unlimited = -1

// maxExecSync is the most that CRI-O takes of a command's output.
const maxExecSync = 16 * 1024 * 1024

// createArgs are those of CreateContainer.
func (k *crio) createArgs(c *container) []string {
	args := testbed.CRIOArgs{
		ID: c.id, Name: "k8s_" + c.id, Bundle: c.bundle, Log: c.log, Exits: c.exits, Persist: c.dir + "/persist",
		Sockets: c.dir + "/sockets", Runtime: c.runtimePath(), Root: c.root,
		Systemd: k.systemd, LogSizeMax: k.logSizeMax, NoSyncLog: k.noSyncLog, Journald: k.journald, NoPivot: k.noPivot,
		Terminal: k.terminal, Stdin: k.stdin, StdinOnce: k.stdinOnce, Checkpoint: k.checkpoint,
	}
	return args.Create()
}

// execArgs are those of ExecSyncContainer, with a conmon that knows --sync and
// --log-global-size-max, as 2.1.6 does.
func (k *crio) execArgs(c *container, pidfile, log, spec string, timeout int) []string {
	args := []string{
		"-c", c.id,
		"-n", "k8s_" + c.id,
		"-r", c.runtimePath(),
		"-p", pidfile,
		"-e",
		"-l", log,
		"--socket-dir-path", c.dir + "/sockets",
		"--log-level", "info",
		"--sync",
		"--log-global-size-max", strconv.Itoa(maxExecSync),
	}
	if k.terminal {
		args = append(args, "-t")
	}
	if timeout > 0 {
		args = append(args, "-T", strconv.Itoa(timeout))
	}
	if k.systemd {
		args = append(args, "-s")
	}
	return append(args, "--exec-process-spec", spec, "--runtime-arg", "--root="+c.root)
}

// callArgs are those before a command of the runtime that CRI-O calls itself.
func (k *crio) callArgs(c *container) []string {
	args := []string{"--root", c.root}
	if k.systemd {
		args = append(args, "--systemd-cgroup")
	}
	return args
}

// crioEnv is all that CRI-O's monitors get: monitor_env first.
func (c *container) crioEnv() []string {
	env := slices.Clone(c.env)
	if sleep, set := os.LookupEnv("GRACEMON_SLEEP"); set {
		env = append(env, "GRACEMON_SLEEP="+sleep)
	}
	env = append(env, "CRI_O_EXTERNAL=1")
	if dir, set := os.LookupEnv("XDG_RUNTIME_DIR"); set {
		env = append(env, "XDG_RUNTIME_DIR="+dir)
	}
	return append(env, "PATH="+os.Getenv("PATH"), "_OCI_SYNCPIPE=3", "_OCI_STARTPIPE=4")
}

// socketPair is what CRI-O calls a pipe. Reads of the parent's end can time out.
func (c *container) socketPair() (parent, child *os.File) {
	c.t.Helper()
	fds, err := unix.Socketpair(unix.AF_LOCAL, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	c.must(err)
	c.must(unix.SetNonblock(fds[1], true))
	return os.NewFile(uintptr(fds[1]), "parent"), os.NewFile(uintptr(fds[0]), "child")
}

// run runs a monitor as far as CRI-O waits for it, gives what it says on its sync
// pipe, and its exit status.
func (c *container) run(cmd *exec.Cmd, parent, child *os.File) (answer string, status int) {
	c.t.Helper()
	defer parent.Close()
	start, childStart := c.socketPair()
	defer start.Close()
	cmd.ExtraFiles = []*os.File{child, childStart}
	cmd.Env = c.crioEnv()
	said, err := os.Create(c.dir + "/said")
	c.must(err)
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	c.must(cmd.Start())
	child.Close()
	childStart.Close()
	_, err = start.Write([]byte{0})
	c.must(err)
	var failed *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &failed) {
		c.t.Fatal(err)
	}
	text, err := os.ReadFile(said.Name())
	c.must(err)
	c.stderr = string(text)
	c.must(parent.SetReadDeadline(time.Now().Add(patience)))
	var message json.RawMessage
	if err := json.NewDecoder(parent).Decode(&message); err != nil {
		return err.Error(), cmd.ProcessState.ExitCode()
	}
	return string(message), cmd.ProcessState.ExitCode()
}

// crioCreate is CreateContainer: it gives what CRI-O learns.
func (c *container) crioCreate(k *crio) string {
	c.t.Helper()
	c.pidFile = c.bundle + "/pidfile"
	c.recordCalls()
	c.spec.Process.Terminal = k.terminal
	text, err := json.Marshal(c.spec)
	c.must(err)
	c.must(os.WriteFile(c.bundle+"/config.json", text, 0o644))
	cmd := c.stack.command(c.bundle, c.stack.monitor, k.createArgs(c)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	parent, child := c.socketPair()
	answer, status := c.run(cmd, parent, child)
	c.monitor = 0
	if text, err := os.ReadFile(c.bundle + "/conmon-pidfile"); err == nil {
		c.monitor, err = strconv.Atoi(string(text))
		c.must(err)
	}
	if pid, err := os.ReadFile(c.pidFile); err == nil {
		answer = strings.Replace(answer, ": "+string(pid)+"}", ": PID}", 1)
		if !running(c.monitor) {
			c.t.Errorf("conmon-pidfile says %d, which does not run", c.monitor)
		}
	}
	return fmt.Sprintf("create: status %d, %s\n", status, answer)
}

// crioExec is ExecSyncContainer: it gives what CRI-O's caller learns, after how
// it comes to know it.
func (c *container) crioExec(k *crio, timeout int, argv ...string) string {
	c.t.Helper()
	dir := c.dir + "/exec" // CRI-O's directories for temporary files and its own
	c.must(os.MkdirAll(dir+"/cwd", 0o755))
	pidfile, log, spec := dir+"/pidfile1", dir+"/crio-log-"+c.id, dir+"/exec-process-1"
	c.must(os.WriteFile(pidfile, nil, 0o600))
	c.must(os.WriteFile(log, nil, 0o600))
	c.writeProcess(spec, k.terminal, argv)
	cmd := c.stack.command(dir+"/cwd", c.stack.monitor, k.execArgs(c, pidfile, log, spec, timeout)...)
	parent, child, err := os.Pipe()
	c.must(err)
	answer, status := c.run(cmd, parent, child)
	result := fmt.Sprintf("exec: status %d, %s", status, answer)
	if pid, err := os.ReadFile(pidfile); err != nil || len(pid) == 0 {
		result += ", no pid file"
	}
	stdout, stderr := c.parseLog(log)
	switch size := len(stdout) + len(stderr); {
	case size < 1000:
		result += fmt.Sprintf(", stdout %q, stderr %q", stdout, stderr)
	case size < maxExecSync*99/100 || size > maxExecSync:
		result += fmt.Sprintf(", %d bytes", size)
	default:
		result += ", output up to the limit"
	}
	for _, file := range []string{pidfile, log, spec} { // as CRI-O does
		c.must(os.Remove(file))
	}
	return result + "\n" + c.tree("after it", "exec")
}

// crioStream is ExecContainer without a terminal, which needs no monitor.
func (c *container) crioStream(k *crio, argv ...string) string {
	c.t.Helper()
	spec := c.dir + "/exec-process-2"
	c.writeProcess(spec, false, argv)
	defer os.Remove(spec)
	cmd := c.stack.command("/", c.runtimePath(), append(k.callArgs(c), "exec", "--process", spec, c.id)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return fmt.Sprintf("streamed: status %d, stdout %q, stderr %q\n", cmd.ProcessState.ExitCode(), stdout.String(), stderr.String())
}

// writeProcess is prepareProcessExec.
func (c *container) writeProcess(path string, terminal bool, argv []string) {
	c.t.Helper()
	process := *c.spec.Process
	process.Args, process.Terminal = argv, terminal
	text, err := json.Marshal(process)
	c.must(err)
	c.must(os.WriteFile(path, text, 0o644))
}

// parseLog reads a command's output from its log, of which CRI-O takes no more
// than its limit.
func (c *container) parseLog(path string) (stdout, stderr string) {
	c.t.Helper()
	text, err := os.ReadFile(path)
	c.must(err)
	if len(text) > maxExecSync+16384 { // conmon, too, is above it by the last record
		c.t.Errorf("the log has %d bytes, more than were to be", len(text))
	}
	var out, errs strings.Builder
	for line := range strings.Lines(string(text[:min(len(text), maxExecSync)])) {
		parts := strings.SplitN(line, " ", 4)
		if len(parts) < 4 {
			c.t.Errorf("CRI-O would not understand the line %q of a log", line)
			continue
		}
		if parts[2] == "P" {
			parts[3] = strings.TrimSuffix(parts[3], "\n")
		}
		switch parts[1] {
		case "stdout":
			out.WriteString(parts[3])
		case "stderr":
			errs.WriteString(parts[3])
		default:
			c.t.Errorf("CRI-O does not know the stream of %q", line)
		}
	}
	return out.String(), errs.String()
}

func (c *container) crioCall(k *crio, args ...string) {
	c.t.Helper()
	cmd := c.stack.command("/", c.runtimePath(), append(k.callArgs(c), args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// crioAttach connects as AttachContainer does, but for the length of the path.
func (c *container) crioAttach() *net.UnixConn {
	c.t.Helper()
	dir, err := os.Open(c.dir + "/sockets/" + c.id)
	c.must(err)
	defer dir.Close()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/attach", dir.Fd()), Net: "unixpacket"})
	c.must(err)
	c.must(conn.SetDeadline(time.Now().Add(patience)))
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// control writes to the control file as for a resize (1) or a reopened log (2).
func (c *container) control(line string) {
	c.t.Helper()
	f, err := os.OpenFile(c.bundle+"/ctl", os.O_WRONLY, 0)
	c.must(err)
	defer f.Close()
	_, err = f.WriteString(line)
	c.must(err)
}

// recordCalls has all calls of the runtime noted. What this machine cannot do is
// taken from them then: there is no systemd here to make cgroups, and no CRIU to
// restore with, so the container begins anew.
func (c *container) recordCalls() {
	c.t.Helper()
	c.wrapRuntime(`printf '%s ' "$@" >> ` + c.dir + `/calls; echo >> ` + c.dir + `/calls
n=$# skip=
while [ $n -gt 0 ]; do
  a=$1 n=$((n-1)); shift
  case $skip$a in
  skip*) skip= ;;
  --systemd-cgroup|--lsm-profile=*|--lsm-mount-context=*) ;;
  --image-path|--work-path) skip=skip ;;
  restore) set -- "$@" run ;;
  *) set -- "$@" "$a" ;;
  esac
done`)
}

// calls gives the calls of the runtime so far, of whoever.
func (c *container) calls() string {
	c.t.Helper()
	text, err := os.ReadFile(c.dir + "/calls")
	c.must(err)
	for _, socket := range consoleSocket.FindAllString(string(text), -1) {
		if exists(socket) {
			c.t.Errorf("left behind: %s", socket)
		}
	}
	said := consoleSocket.ReplaceAllString(string(text), "CONSOLE")
	if !c.stack.ours {
		said = strings.ReplaceAll(said, " --tty", "") // of an exec; conmon has ceased to say it
	}
	return strings.NewReplacer(c.dir, "DIR", c.id, "ID", " \n", "\n").Replace(said)
}

var consoleSocket = regexp.MustCompile(`/\S*/conmon-term\.\w+`)

// crioEnd waits for the container's end, deletes it, and gives what there is of
// it before and after that.
func (c *container) crioEnd(k *crio) string {
	c.t.Helper()
	story := c.ended() + "\n"
	c.gone()
	story += c.tree("before delete", "bundle", "exits", "persist", "sockets")
	return story + c.crioDelete(k)
}

func (c *container) crioDelete(k *crio) string {
	c.t.Helper()
	c.crioCall(k, "delete", "--force", c.id)
	story := c.tree("after delete", "bundle", "exits", "persist", "sockets", "root")
	c.until("none of its processes is left", func() bool { return !anyProcess("cmdline", c.id) })
	for _, pattern := range []string{strings.TrimPrefix(c.env[0], stateVariable) + "/*/" + c.id, "/sys/fs/cgroup/" + cgroupParent + "/" + c.id, "/sys/fs/cgroup/*/" + cgroupParent + "/" + c.id} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			c.t.Errorf("left behind: %v", left)
		}
	}
	return story + c.calls()
}

// stateVariable is where tests have their monitors' state.
const stateVariable = "GRACERUN_STATE_DIR="

// anyProcess reports whether a process has this in that file of proc(5).
func anyProcess(file, text string) bool {
	paths, _ := filepath.Glob("/proc/[0-9]*/" + file)
	return slices.ContainsFunc(paths, func(path string) bool {
		has, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(has), text)
	})
}

// tree names what is in these directories, but for the bundle's own contents.
// conmon leaves its attach socket behind, which is not asked of gracemon.
func (c *container) tree(when string, dirs ...string) string {
	c.t.Helper()
	var names []string
	for _, dir := range dirs {
		c.must(filepath.WalkDir(c.dir+"/"+dir, func(path string, entry fs.DirEntry, err error) error {
			name := strings.TrimPrefix(path, c.dir+"/")
			switch {
			case err != nil:
				return err
			case name == "bundle/rootfs":
				return fs.SkipDir
			case name == dir || name == "bundle/config.json":
				return nil
			case !c.stack.ours && when != "created" && (name == "sockets/"+c.id || name == "bundle/attach"):
				return nil
			}
			if to, err := os.Readlink(path); err == nil {
				name += " -> " + to
			}
			names = append(names, entry.Type().String()[:1]+name)
			return nil
		}))
	}
	slices.Sort(names)
	return strings.NewReplacer(c.dir, "DIR", c.id, "ID").Replace(when+": "+strings.Join(names, ", ")) + "\n"
}

var crioCases = []struct {
	name   string
	config crio
	script string
	run    func(c *container, k *crio) string
	want   string
}{
	{
		name:   "a container",
		config: crio{logSizeMax: unlimited},
		script: "echo out; echo err >&2; exit 3",
		run: func(c *container, k *crio) string {
			story := c.crioCreate(k) + c.tree("created", "bundle", "exits", "persist", "sockets")
			c.crioCall(k, "start", c.id)
			return story + c.crioEnd(k)
		},
		want: `
create: status 0, {"pid": PID}
created: -bundle/conmon-pidfile, -bundle/pidfile, Lsockets/ID -> DIR/bundle, Sbundle/attach, pbundle/ctl, pbundle/winsz
exit 3, persisted 3
stderr F err
stdout F out
before delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
after delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
--root=DIR/root create --bundle DIR/bundle --pid-file DIR/bundle/pidfile ID
--root DIR/root start ID
--root DIR/root delete --force ID
`,
	},
	{
		name:   "all that can be configured",
		config: crio{logSizeMax: 8192, systemd: true, noSyncLog: true, noPivot: true},
		script: "seq -f '%020.0f' 190; exit 3",
		run: func(c *container, k *crio) string {
			story := c.crioCreate(k)
			c.crioCall(k, "start", c.id)
			c.exitFile()
			lines := c.lines()
			story += fmt.Sprintf("%d lines are left, from %q to %q\n", len(lines), lines[0], lines[len(lines)-1])
			c.must(os.Remove(c.log))
			c.must(os.WriteFile(c.log, nil, 0o600))
			return story + c.crioEnd(k)
		},
		want: `
create: status 0, {"pid": PID}
66 lines are left, from "stdout F 00000000000000000125" to "stdout F 00000000000000000190"
exit 3, persisted 3
before delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
after delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
--systemd-cgroup --root=DIR/root create --bundle DIR/bundle --pid-file DIR/bundle/pidfile --no-pivot ID
--root DIR/root --systemd-cgroup start ID
--root DIR/root --systemd-cgroup delete --force ID
`,
	},
	{
		name:   "terminal",
		config: crio{logSizeMax: unlimited, terminal: true, stdin: true},
		script: "trap 'stty size; exit 4' WINCH; echo up; while :; do sleep 0.05; done",
		run: func(c *container, k *crio) string {
			story := c.crioCreate(k)
			client := c.crioAttach()
			c.crioCall(k, "start", c.id)
			c.says("stdout F up\r")
			c.control("1 24 80\n")
			return story + fmt.Sprintf("client: %q\n", c.received(client)) + c.crioEnd(k)
		},
		want: `
create: status 0, {"pid": PID}
client: "1:up\r\n1:24 80\r\n"
exit 4, persisted 4
stdout F 24 80` + "\r\n" + `stdout F up` + "\r\n" + `before delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
after delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
--root=DIR/root create --bundle DIR/bundle --pid-file DIR/bundle/pidfile --console-socket CONSOLE ID
--root DIR/root start ID
--root DIR/root delete --force ID
`,
	},
	{
		name:   "standard input, once",
		config: crio{logSizeMax: unlimited, stdin: true, stdinOnce: true},
		script: "cat; exit 5",
		run: func(c *container, k *crio) string {
			story := c.crioCreate(k)
			client := c.crioAttach()
			c.crioCall(k, "start", c.id)
			_, err := client.Write([]byte("hello\n"))
			c.must(err)
			c.must(client.CloseWrite())
			return story + fmt.Sprintf("client: %q\n", c.received(client)) + c.crioEnd(k)
		},
		want: `
create: status 0, {"pid": PID}
client: "1:hello\n"
exit 5, persisted 5
stdout F hello
before delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
after delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
--root=DIR/root create --bundle DIR/bundle --pid-file DIR/bundle/pidfile ID
--root DIR/root start ID
--root DIR/root delete --force ID
`,
	},
	{
		name:   "standard input that stays open",
		config: crio{logSizeMax: unlimited, stdin: true},
		script: `read line; echo "first $line"; read line; echo "then $line"; exit 6`,
		run: func(c *container, k *crio) string {
			story := c.crioCreate(k)
			c.crioCall(k, "start", c.id)
			for _, word := range []string{"first", "then"} {
				client := c.crioAttach()
				_, err := client.Write([]byte("hello\n"))
				c.must(err)
				c.must(client.CloseWrite())
				client.Close()
				c.says("stdout F " + word + " hello")
			}
			return story + c.crioEnd(k)
		},
		want: `
create: status 0, {"pid": PID}
exit 6, persisted 6
stdout F first hello
stdout F then hello
before delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
after delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
--root=DIR/root create --bundle DIR/bundle --pid-file DIR/bundle/pidfile ID
--root DIR/root start ID
--root DIR/root delete --force ID
`,
	},
	{
		name:   "the log is reopened",
		config: crio{logSizeMax: unlimited},
		script: "echo before; while ! [ -e /data/go ]; do sleep 0.02; done; echo after",
		run: func(c *container, k *crio) string {
			story := c.crioCreate(k)
			c.crioCall(k, "start", c.id)
			c.says("stdout F before")
			c.must(os.Rename(c.log, c.log+".1"))
			c.control("2 0 0\n")
			c.until("there is a new log", func() bool { return exists(c.log) })
			c.must(os.WriteFile(c.dir+"/go", nil, 0o644))
			return story + c.crioEnd(k)
		},
		want: `
create: status 0, {"pid": PID}
exit 0, persisted 0
stdout F after
before delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
after delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
--root=DIR/root create --bundle DIR/bundle --pid-file DIR/bundle/pidfile ID
--root DIR/root start ID
--root DIR/root delete --force ID
`,
	},
	{
		name:   "create fails",
		config: crio{logSizeMax: unlimited},
		run: func(c *container, k *crio) string {
			c.spec.Process.Args = []string{"/nonexistent"}
			story := c.crioCreate(k)
			before, message, _ := strings.Cut(story, `"message": `)
			if !strings.Contains(message, "nonexistent") {
				c.t.Errorf("the message is %s", message)
			}
			c.gone()
			return before + "\n" + c.tree("before delete", "bundle", "exits", "persist", "sockets") + c.crioDelete(k)
		},
		want: `
create: status 0, {"pid": -1, 
before delete: -bundle/conmon-pidfile, pbundle/ctl, pbundle/winsz
after delete: -bundle/conmon-pidfile, pbundle/ctl, pbundle/winsz
--root=DIR/root create --bundle DIR/bundle --pid-file DIR/bundle/pidfile ID
--root DIR/root delete --force ID
`,
	},
	{
		name:   "restore",
		config: crio{logSizeMax: unlimited, checkpoint: "/checkpoint"},
		script: "echo restored; while ! [ -e /data/go ]; do sleep 0.02; done; exit 7",
		run: func(c *container, k *crio) string {
			story := c.crioCreate(k)
			c.must(os.WriteFile(c.dir+"/go", nil, 0o644))
			return story + c.crioEnd(k)
		},
		want: `
create: status 0, {"pid": PID}
exit 7, persisted 7
stdout F restored
before delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
after delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
--root=DIR/root restore --bundle DIR/bundle --pid-file DIR/bundle/pidfile --detach --image-path /checkpoint --work-path DIR/bundle --lsm-profile=selinux:u:r:t:s0 --lsm-mount-context=u:r:m:s0 ID
--root DIR/root delete --force ID
`,
	},
	{
		name:   "commands",
		config: crio{logSizeMax: unlimited},
		script: "trap 'exit 8' TERM; while :; do sleep 0.05; done",
		run: func(c *container, k *crio) string {
			story := c.crioCreate(k)
			c.crioCall(k, "start", c.id)
			story += c.crioExec(k, 0, "/bin/sh", "-c", "echo out; printf unfinished >&2; exit 3")
			story += c.crioExec(k, 20, "/bin/sh", "-c", "exit 0")
			story += c.crioExec(k, 1, "/bin/sh", "-c", "echo begun; exec sleep 1000")
			story += c.crioExec(k, 0, "/bin/sh", "-c", "head -c 18000000 /dev/zero | tr '\\0' 'x'; exit 4")
			story += c.crioStream(k, "/bin/sh", "-c", "echo out; echo err >&2; exit 5")
			c.crioCall(k, "kill", c.id, "TERM")
			return story + c.crioEnd(k)
		},
		want: `
create: status 0, {"pid": PID}
exec: status 3, {"exit_code": 3}, stdout "out\n", stderr "unfinished"
after it: dexec/cwd
exec: status 0, {"exit_code": 0}, stdout "", stderr ""
after it: dexec/cwd
exec: status 255, {"exit_code": -1, "message": "command timed out"}, stdout "begun\n", stderr ""
after it: dexec/cwd
exec: status 4, {"exit_code": 4}, output up to the limit
after it: dexec/cwd
streamed: status 5, stdout "out\n", stderr "err\n"
exit 8, persisted 8
before delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
after delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
--root=DIR/root create --bundle DIR/bundle --pid-file DIR/bundle/pidfile ID
--root DIR/root start ID
--root=DIR/root exec --pid-file DIR/exec/pidfile1 --process DIR/exec/exec-process-1 --detach ID
--root=DIR/root exec --pid-file DIR/exec/pidfile1 --process DIR/exec/exec-process-1 --detach ID
--root=DIR/root exec --pid-file DIR/exec/pidfile1 --process DIR/exec/exec-process-1 --detach ID
--root=DIR/root exec --pid-file DIR/exec/pidfile1 --process DIR/exec/exec-process-1 --detach ID
--root DIR/root exec --process DIR/exec-process-2 ID
--root DIR/root kill ID TERM
--root DIR/root delete --force ID
`,
	},
	{
		name:   "commands with a terminal",
		config: crio{logSizeMax: unlimited, systemd: true, terminal: true},
		script: "trap 'exit 8' TERM; while :; do sleep 0.05; done",
		run: func(c *container, k *crio) string {
			story := c.crioCreate(k)
			c.crioCall(k, "start", c.id)
			story += c.crioExec(k, 20, "/bin/sh", "-c", "test -t 0 && test -t 1 && echo out; echo err >&2; exit 3")
			story += c.crioExec(k, 1, "/bin/sh", "-c", "echo begun; exec sleep 1000")
			c.crioCall(k, "kill", c.id, "TERM")
			return story + c.crioEnd(k)
		},
		want: `
create: status 0, {"pid": PID}
exec: status 3, {"exit_code": 3}, stdout "out\r\nerr\r\n", stderr ""
after it: dexec/cwd
exec: status 255, {"exit_code": -1, "message": "command timed out"}, stdout "begun\r\n", stderr ""
after it: dexec/cwd
exit 8, persisted 8
before delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
after delete: -bundle/conmon-pidfile, -bundle/pidfile, -exits/ID, -persist/exit, pbundle/ctl, pbundle/winsz
--systemd-cgroup --root=DIR/root create --bundle DIR/bundle --pid-file DIR/bundle/pidfile --console-socket CONSOLE ID
--root DIR/root --systemd-cgroup start ID
--root=DIR/root exec --pid-file DIR/exec/pidfile1 --process DIR/exec/exec-process-1 --detach --console-socket CONSOLE ID
--root=DIR/root exec --pid-file DIR/exec/pidfile1 --process DIR/exec/exec-process-1 --detach --console-socket CONSOLE ID
--root DIR/root --systemd-cgroup kill ID TERM
--root DIR/root --systemd-cgroup delete --force ID
`,
	},
}

func TestCRIO(t *testing.T) {
	state := t.TempDir()
	for _, runtime := range []string{"runc", "crun"} {
		ours, theirs := stacks(runtime)
		for _, s := range []*stack{ours, theirs} {
			t.Run(s.name, func(t *testing.T) {
				s.need(t)
				for _, k := range crioCases {
					t.Run(k.name, func(t *testing.T) {
						t.Parallel() // they wait most of their time
						c := s.container(t, k.script)
						c.env = []string{stateVariable + state}
						if got, want := k.run(c, &k.config), strings.TrimPrefix(k.want, "\n"); got != want {
							t.Errorf("got:\n%s\nwant:\n%s\nstderr: %s", got, want, c.stderr)
						}
					})
				}
			})
		}
	}
	// The keeper, too, ends when it has had nothing to keep for a while.
	for deadline := time.Now().Add(patience); anyProcess("environ", stateVariable+state+"\x00"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not all processes of the monitors have ended")
		}
	}
}

// With log_to_journald the monitor has two logs. The journal is a socket of the
// test's own in a mount namespace in which there is nothing else in /run.
func TestCRIOWithJournald(t *testing.T) {
	state := t.TempDir()
	ours, theirs := stacks("runc")
	for _, s := range []*stack{ours, theirs} {
		t.Run(s.name, func(t *testing.T) {
			s.need(t)
			journal := s.journal(t)
			c := s.container(t, "echo out; echo err >&2; printf unfinished; exit 3")
			c.env = []string{stateVariable + state}
			k := &crio{logSizeMax: unlimited, journald: true}
			c.expect("create", c.crioCreate(k), "create: status 0, {\"pid\": PID}\n")
			c.crioCall(k, "start", c.id)
			c.expect("end", c.ended(), "exit 3, persisted 3\nstderr F err\nstdout F out\nstdout P unfinished")
			c.gone()
			var got []string
			buf := make([]byte, 1<<16)
			for range 3 {
				c.must(journal.SetReadDeadline(time.Now().Add(patience)))
				n, err := journal.Read(buf)
				c.must(err)
				got = append(got, strings.ReplaceAll(journalFields(buf[:n]), c.id, "ID"))
			}
			slices.Sort(got)
			of := "CONTAINER_ID=" + c.id[:12] + ", CONTAINER_ID_FULL=ID, CONTAINER_NAME=k8s_ID, "
			c.expect("the journal", strings.Join(got, "\n"),
				of+`CONTAINER_PARTIAL_MESSAGE=true, MESSAGE=unfinished, PRIORITY=6, SYSLOG_IDENTIFIER=k8s_ID`+"\n"+
					of+`MESSAGE=err\n, PRIORITY=3, SYSLOG_IDENTIFIER=k8s_ID`+"\n"+
					of+`MESSAGE=out\n, PRIORITY=6, SYSLOG_IDENTIFIER=k8s_ID`)
			c.must(journal.SetReadDeadline(time.Now()))
			if n, err := journal.Read(buf); err == nil {
				t.Errorf("the journal has one more: %q", buf[:n])
			}
			c.crioDelete(k)
		})
	}
}

// What a container has written before it ends is in the journal, even if it is more
// than journald takes at once.
func TestLastWordsInTheJournal(t *testing.T) {
	state := t.TempDir()
	ours, theirs := stacks("runc")
	for _, s := range []*stack{ours, theirs} {
		t.Run(s.name, func(t *testing.T) {
			s.need(t)
			journal := s.journal(t)
			c := s.container(t, "seq 1 2000; exit 3")
			c.env = []string{stateVariable + state}
			k := &crio{logSizeMax: unlimited, journald: true}
			c.expect("create", c.crioCreate(k), "create: status 0, {\"pid\": PID}\n")
			c.crioCall(k, "start", c.id)
			buf := make([]byte, 1<<16)
			for n := 1; n <= 2000; n++ {
				c.must(journal.SetReadDeadline(time.Now().Add(patience)))
				size, err := journal.Read(buf)
				if err != nil {
					t.Fatalf("after %d lines: %v", n-1, err)
				}
				if got, want := journalFields(buf[:size]), "MESSAGE="+strconv.Itoa(n)+`\n,`; !strings.Contains(got, want) {
					t.Fatalf("line %d is %s", n, got)
				}
			}
			if end, _, _ := strings.Cut(c.ended(), "\n"); end != "exit 3, persisted 3" {
				t.Errorf("it ended with %s", end)
			}
			c.gone()
			c.crioDelete(k)
		})
	}
}

// journalFields reads an entry (https://systemd.io/JOURNAL_NATIVE_PROTOCOL), and
// leaves out which line of its source conmon was at.
func journalFields(entry []byte) string {
	var fields []string
	for len(entry) > 0 {
		line, rest, _ := bytes.Cut(entry, []byte("\n"))
		field, entire := string(line), rest
		if !strings.Contains(field, "=") && len(rest) > 8 {
			size := binary.LittleEndian.Uint64(rest)
			field += "=" + string(rest[8:8+size])
			entire = rest[8+size+1:]
		}
		if entry = entire; !strings.HasPrefix(field, "CODE_") {
			fields = append(fields, strings.ReplaceAll(field, "\n", `\n`))
		}
	}
	slices.Sort(fields)
	return strings.Join(fields, ", ")
}

// journal has the stack's programs run where the socket is journald's.
func (s *stack) journal(t *testing.T) *net.UnixConn {
	t.Helper()
	return s.listening(t, "/run/systemd/journal/socket", func() error {
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
			return os.NewSyscallError("mount /run", err)
		}
		return os.MkdirAll("/run/systemd/journal", 0o755)
	})
}

// listening has the stack's programs run in a mount namespace in which the socket
// is the test's, where prepare has made room for it.
func (s *stack) listening(t *testing.T, socket string, prepare func() error) (conn *net.UnixConn) {
	t.Helper()
	fd, path, err := testbed.MountNamespace(func() (err error) {
		if err = prepare(); err == nil {
			conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
		}
		return err
	})
	if err != nil {
		t.Skip("no mount namespace with "+socket+": ", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	t.Cleanup(func() { conn.Close() })
	s.namespace = path
	return conn
}
