package podman

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

var runCases = []testCase{
	{
		name:    "run: exit status and both outputs",
		telling: true,
		do: func(u *user) {
			for _, status := range []string{"0", "7", "137", "143"} {
				u.note("%s", u.do(u.run("echo out; echo err >&2; exit "+status, "--rm")...))
			}
		},
		want: `7 "out\n" "err\n"`,
	},
	{
		name: "run: input",
		do: func(u *user) {
			u.note("%s", u.feed(strings.NewReader("one\ntwo"), u.run("cat; echo; echo end", "--rm", "--interactive")...))
		},
		want: `0 "one\ntwo\nend\n" ""`,
	},
	{
		name: "run: no such program, no permission",
		do: func(u *user) {
			c := u.do(u.command("run", "--rm", "box", "/nonexistent")...)
			u.note("%d %q, complains: %v", c.code, c.out, strings.Contains(strings.ToLower(c.err), "no such file or directory"))
			c = u.do(u.command("run", "--rm", "box", "/etc/passwd")...)
			u.note("%d %q, complains: %v", c.code, c.out, strings.Contains(strings.ToLower(c.err), "permission denied"))
			u.note("left: %q", u.ok("ps", "--all", "--quiet", "--filter", "name="+u.name))
		},
		want: "127 \"\", complains: true\n126 \"\", complains: true\nleft: \"\"",
	},
	{
		name:    "run: terminal",
		telling: true,
		do: func(u *user) {
			// The first size comes when the container runs already, with any monitor.
			t := u.sit(u.run(`await() { until test "$(stty size 2> /dev/null)" = "$1"; do sleep 0.05; done; echo "size $1"; }
				await "30 100"; await "43 132"
				while ! read line; do :; done; echo "got $line"; exit 6`, "--rm", "--interactive", "--tty")...)
			t.sees("size 30 100")
			t.resize(132, 43)
			t.sees("size 43 132")
			t.types("hello\n")
			code, text := t.leave()
			u.note("%d %q", code, text)
		},
		want: `6 "size 30 100\r\nsize 43 132\r\nhello\r\ngot hello\r\n"`,
	},
	{
		name:    "run: detached",
		telling: true,
		do: func(u *user) {
			u.up(serve)
			pid, monitor := u.inspect("{{.State.Pid}}"), u.inspect("{{.State.ConmonPid}}")
			file, err := os.ReadFile(u.inspect("{{.ConmonPidFile}}"))
			u.must(err)
			u.note("pid file has the monitor: %v, which lives: %v", string(file) == monitor, alive(monitor))
			exe, err := os.Readlink("/proc/" + monitor + "/exe")
			u.must(err)
			u.note("it is the one that was asked for: %v", filepath.Base(exe) == u.monitor)
			stat, err := os.ReadFile("/proc/" + pid + "/status")
			u.must(err)
			u.note("init is its child: %v", strings.Contains(string(stat), "\nPPid:\t"+monitor+"\n"))
			u.note("%s", u.inspect("{{.State.Status}} {{.State.Running}} {{.State.OOMKilled}}"))
			u.ok("kill", u.name)
			u.note("waited: %s", u.waited())
			u.note("%s", u.inspect("{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.State.Pid}}"))
			u.until("the monitor has ended", func() bool { return !alive(monitor) })
		},
		want: "pid file has the monitor: true, which lives: true\nit is the one that was asked for: true\ninit is its child: true\nrunning true false\nwaited: 137\nexited 137 false 0",
	},
	{
		name: "run: detached, removed at its end",
		do: func(u *user) {
			u.ok(u.run("exit 3", "--detach", "--rm")...)
			u.until("the container is removed", func() bool { return u.do("container", "exists", u.name).code == 1 })
			u.note("removed")
		},
		want: "removed",
	},
	{
		name: "create, start, restart",
		do: func(u *user) {
			u.ok(u.command("create", "box", "/bin/sh", "-c", "echo run; exit 9")...)
			u.note("%s", u.inspect("{{.State.Status}} {{.State.ExitCode}}"))
			u.note("attached: %s", u.do("start", "--attach", u.name))
			u.ok("start", u.name)
			u.note("waited: %s", u.waited())
			u.ok("restart", u.name)
			u.note("waited: %s", u.waited())
			u.note("%q", u.ok("logs", u.name))
		},
		want: "created 0\nattached: 9 \"run\\n\" \"\"\nwaited: 9\nwaited: 9\n\"run\\nrun\\nrun\"",
	},
	{
		name: "run: descriptors are handed on",
		do: func(u *user) {
			path := u.dir + "/handed"
			u.must(os.WriteFile(path, []byte("through descriptor 3"), 0o644))
			file, err := os.Open(path)
			u.must(err)
			defer file.Close()
			r := &running{Cmd: u.podman(u.run("cat <&3", "--rm", "--preserve-fds=1")...)}
			r.ExtraFiles, r.Stdout, r.Stderr = []*os.File{file}, &r.out, &r.err
			u.must(r.Start())
			u.note("%s", u.finish(r))
		},
		want: `0 "through descriptor 3" ""`,
	},
	{
		name: "run: timeout",
		do: func(u *user) {
			c := u.do(u.run("echo up; sleep 1000", "--timeout=1")...)
			u.note("%s", c)
			u.note("%s", u.inspect("{{.State.ExitCode}}"))
		},
		want: `"up\n"`,
	},
	{
		name:    "run: systemd is told when the container says so",
		telling: true,
		do:      func(u *user) { u.notify("container") },
		want:    "MAINPID=monitor\nREADY=1",
	},
	{
		name: "run: systemd is told when the monitor is there",
		do:   func(u *user) { u.notify("conmon") },
		want: "MAINPID=monitor\nREADY=1",
	},
	{
		name: "run: systemd is told nothing",
		do:   func(u *user) { u.notify("ignore") },
		want: "nothing",
	},
}

// notify runs a container under a service manager of our own, and notes what it
// was told.
func (u *user) notify(who string) {
	path := u.dir + "/notify"
	socket, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	u.must(err)
	defer syscall.Close(socket)
	u.must(syscall.Bind(socket, &syscall.SockaddrUnix{Name: path}))
	r := &running{Cmd: u.podman(u.run("test -z \"$NOTIFY_SOCKET\" || notify READY=1; exec sleep 1000", "--detach", "--sdnotify="+who)...)}
	r.Env = append(r.Env, "NOTIFY_SOCKET="+path)
	r.Stdout, r.Stderr = &r.out, &r.err
	u.must(r.Start())
	if c := u.finish(r); c.code != 0 {
		u.fail("run: %s", c)
	}
	monitor := u.inspect("{{.State.ConmonPid}}")
	if who == "ignore" {
		u.must(syscall.SetNonblock(socket, true))
	} else {
		u.must(syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: int64(patience.Seconds())}))
	}
	var told []string
	buffer := make([]byte, 4096)
	for !slices.Contains(told, "READY=1") || !slices.Contains(told, "MAINPID=monitor") {
		n, err := syscall.Read(socket, buffer)
		if err == syscall.EAGAIN && who == "ignore" {
			told = append(told, "nothing")
			break
		}
		if err != nil {
			u.fail("the service manager was told %q, and then: %v", told, err)
		}
		text := strings.ReplaceAll(string(buffer[:n]), "MAINPID="+monitor, "MAINPID=monitor")
		told = append(told, strings.Fields(text)...)
	}
	slices.Sort(told)
	u.note("%s", strings.Join(told, "\n"))
}
