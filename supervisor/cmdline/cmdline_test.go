package cmdline

import (
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gracerun.io/supervisor/logs"
)

func complete(t *testing.T, args ...string) *Options {
	t.Helper()
	o, err := Parse(args)
	if err == nil {
		_, err = o.Complete()
	}
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return o
}

const id = "4e2f8c0f6a1d4e2f8c0f6a1d4e2f8c0f6a1d4e2f8c0f6a1d4e2f8c0f6a1d0000"

// What Podman 4.3 and later give for `podman run -d`: libpod/oci_conmon_common.go.
func TestPodmanCreate(t *testing.T) {
	o := complete(t, "--api-version", "1", "-c", id, "-u", id, "-r", "/bin/true", "-b", "/b/userdata", "-p", "/run/p/pidfile", "-n", "web",
		"--exit-dir", "/run/libpod/exits", "--persist-dir", "/run/libpod/persist/"+id, "--full-attach",
		"--runtime-arg", "--debug", "-s", "-l", "k8s-file:/b/userdata/ctr.log", "--log-level", "warning", "--syslog", "--log-size-max", "1048576",
		"--runtime-arg", "--log-format=json", "--runtime-arg", "--log", "--runtime-arg=/run/p/oci-log",
		"--sdnotify-socket=/run/systemd/notify", "-i", "--timeout=9", "--no-new-keyring", "--conmon-pidfile", "/run/p/conmon.pid",
		"--exit-command", "/usr/bin/podman", "--exit-command-arg", "--root", "--exit-command-arg", "/var/lib/containers",
		"--exit-command-arg", "container", "--exit-command-arg", "cleanup", "--exit-command-arg", id,
		"--runtime-opt", "--preserve-fds", "--runtime-opt", "2")
	want := &Options{
		ID: id, UUID: id, Name: "web", Bundle: "/b/userdata", Runtime: "/bin/true", SystemdCgroup: true, NoNewKeyring: true,
		RuntimeArgs: []string{"--debug", "--log-format=json", "--log", "/run/p/oci-log"}, RuntimeOpts: []string{"--preserve-fds", "2"},
		APIVersion: 1, MonitorPIDFile: "/run/p/conmon.pid", ContainerPIDFile: "/run/p/pidfile",
		Stdin: true, SocketDir: DefaultSocketDir, FullAttach: true, NotifySocket: "/run/systemd/notify",
		Log: []logs.Target{{Driver: "k8s-file", Path: "/b/userdata/ctr.log"}}, LogSizeMax: 1 << 20, LogGlobalSizeMax: -1, LogMaxFiles: 1, Level: Warnings, Syslog: true,
		Timeout: 9, ExitDir: "/run/libpod/exits", PersistDir: "/run/libpod/persist/" + id, ExitCommand: "/usr/bin/podman",
		ExitArgs: []string{"--root", "/var/lib/containers", "container", "cleanup", id},
		logPaths: []string{"k8s-file:/b/userdata/ctr.log"}, logLevel: "warning",
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
	runs(t, o, "", "/bin/true --systemd-cgroup --debug --log-format=json --log /run/p/oci-log create --bundle /b/userdata "+
		"--pid-file /run/p/pidfile --no-new-keyring --preserve-fds 2 "+id)
}

// `podman exec -it`: libpod/oci_conmon_exec_common.go.
func TestPodmanExec(t *testing.T) {
	o := complete(t, "--api-version", "1", "-c", id, "-u", "session", "-r", "/bin/true", "-b", "/b/userdata/session", "-p", "/b/userdata/session/exec_pid",
		"-n", "web", "--exit-dir", "/b/userdata/session/exit", "--persist-dir", "/b/userdata/session/persist", "--full-attach", "-s", "-l", "none",
		"--log-level", "debug", "--syslog", "-t", "-i", "-e", "--exec-attach", "--exec-process-spec", "/b/userdata/session/exec-process-1",
		"--exit-command", "/usr/bin/podman", "--exit-command-arg", "cleanup", "--exit-delay", "300")
	if !o.Exec || !o.ExecAttach || !o.Terminal || !o.Stdin || o.ExitDelay != 300 || !slices.Equal(o.Log, []logs.Target{{Driver: "none"}}) || o.Level != Debug {
		t.Errorf("%+v", o)
	}
	runs(t, o, "/tmp/term", "/bin/true exec --pid-file /b/userdata/session/exec_pid --process /b/userdata/session/exec-process-1 "+
		"--detach --console-socket /tmp/term "+id)
}

// CRI-O's create and exec: internal/oci/runtime_oci.go.
func TestCRIO(t *testing.T) {
	o := complete(t, "-b", "/b", "-c", id, "--exit-dir", "/var/run/crio/exits", "-l", "/var/log/pods/0.log", "--log-level", "info", "-n", "k8s_web",
		"-P", "/b/conmon-pidfile", "-p", "/b/pidfile", "--persist-dir", "/var/lib/containers/x", "-r", "/bin/true", "--runtime-arg", "--root=/run/runc",
		"--socket-dir-path", "/var/run/crio", "--syslog", "-u", id, "-s", "--log-size-max", "-1", "--no-sync-log", "--log-path", "journald:",
		"--no-pivot", "--leave-stdin-open", "-i", "--restore", "/cp", "--runtime-opt", "--lsm-profile=selinux:x")
	if !slices.Equal(o.Log, []logs.Target{{Driver: "k8s-file", Path: "/var/log/pods/0.log"}, {Driver: "journald"}}) || !o.LeaveStdinOpen || !o.NoSyncLog || o.LogSizeMax != -1 || o.APIVersion != 0 {
		t.Errorf("%+v", o)
	}
	if root := o.RuntimeRoot(); root != "/run/runc" {
		t.Errorf("root is %q", root)
	}
	runs(t, o, "", "/bin/true --systemd-cgroup --root=/run/runc restore --bundle /b --pid-file /b/pidfile --no-pivot "+
		"--detach --image-path /cp --work-path /b --lsm-profile=selinux:x "+id)

	o = complete(t, "-c", id, "-n", "k8s_web", "-r", "/bin/true", "-p", "/tmp/pidfile1", "-e", "-l", "/tmp/crio-log-1", "--socket-dir-path", "/var/run/crio",
		"--log-level", "info", "--sync", "--log-global-size-max", "16777216", "-T", "5", "-s", "--exec-process-spec", "/tmp/spec", "--runtime-arg", "--root=/run/runc")
	if !o.Sync || o.Timeout != 5 || o.LogGlobalSizeMax != 16<<20 || o.Bundle != "" {
		t.Errorf("%+v", o)
	}
	runs(t, o, "", "/bin/true --root=/run/runc exec --pid-file /tmp/pidfile1 --process /tmp/spec --detach "+id)
}

func runs(t *testing.T, o *Options, console, want string) {
	t.Helper()
	if got := strings.Join(o.RuntimeCommand(console), " "); got != want {
		t.Errorf("runs\n %s\nwant\n %s", got, want)
	}
}

func TestDefaults(t *testing.T) {
	t.Chdir("/tmp")
	o := complete(t, "-c", "x", "-u", "u", "-r", "/bin/true", "-l", "none")
	if o.Bundle != "/tmp" || o.ContainerPIDFile != "/tmp/pidfile-x" || o.SocketDir != "/var/run/crio" {
		t.Errorf("%+v", o)
	}
	if o = complete(t, "-c", "x", "-e", "--exec-process-spec", "s", "-r", "/bin/true", "-l", "none"); o.Bundle != "" {
		t.Errorf("bundle of an exec without one is %q", o.Bundle)
	}
}

// What conmon has had since 2.1.6, which TestLikeConmon may not have to compare with.
func TestNewerOptions(t *testing.T) {
	enough := strings.Fields("-c 0123456789abcdef -u u -r /bin/true")
	o := complete(t, append(enough, strings.Fields("-l journald -l f --log-rotate --log-max-files 3 --log-allowlist-dir /a --log-allowlist-dir=/b "+
		"--log-label A=1 --log-label B=2 --no-container-partial-message --log-tag t")...)...)
	if !o.LogRotate || o.LogMaxFiles != 3 || !slices.Equal(o.LogAllowlistDirs, []string{"/a", "/b"}) ||
		!slices.Equal(o.LogLabels, []string{"A=1", "B=2"}) || !o.NoPartialMessage {
		t.Errorf("%+v", o)
	}
	for args, want := range map[string]string{
		"--log-max-files=-1":              "conmon: log-max-files must be non-negative, got -1\n",
		"--log-rotate --log-max-files=0":  "conmon: log-max-files must be at least 1 when log-rotate is enabled, got 0\n",
		"--log-max-files=2147483648":      "conmon: option parsing failed: Integer value “2147483648” for --log-max-files out of range\n",
		"-l f --log-label A=1":            "[conmon:e]: k8s-file doesn't support --log-label\n",
		"-l journald --log-label =1":      "[conmon:e]: Container labels must be in format LABEL=VALUE (no LABEL present in '=1')\n",
		"-l journald --log-label A":       "[conmon:e]: Container labels must be in format LABEL=VALUE (none or more than one '=' present in 'A')\n",
		"-l journald --log-label A=1=2":   "[conmon:e]: Container labels must be in format LABEL=VALUE (none or more than one '=' present in 'A=1=2')\n",
		"-l journald --log-label a=1":     "[conmon:e]: Container label names must contain only uppercase letters, numbers and underscore (in 'a=1')\n",
		"-l journald -c x --log-label a=": "[conmon:e]: Container ID must be longer than 12 characters\n",
	} {
		status, got := ours(append(slices.Clone(enough), strings.Fields(args)...))
		if status != 1 || got != want {
			t.Errorf("%s: %d %q, want %q", args, status, got, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	o, err := Parse(strings.Fields("-c x -u u -r /bin/true -l none --no-container-partial-message --seccomp-notify-socket /s --seccomp-notify-plugins p"))
	if err != nil {
		t.Fatal(err)
	}
	warnings, err := o.Complete()
	if err != nil || len(warnings) != 2 ||
		warnings[0] != "--no-container-partial-message has no effect without journald log driver" ||
		!strings.HasPrefix(warnings[1], "--seccomp-notify-socket has no effect") {
		t.Errorf("%q %v", warnings, err)
	}
}

// A container outlives its runtime's package and its monitor's working directory.
func TestCompleteAgain(t *testing.T) {
	dir := t.TempDir() + "/gone"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	const enough = "-c x -u u -l none -b /b -p /p"
	for args, want := range map[string]string{
		enough + " -r /no/such/runtime":               "",
		"-c x -u u -l none -p /p -r /no/such/runtime": "[conmon:e]: Failed to get working directory\n",
		enough: "[conmon:e]: Runtime path not provided. Use --runtime\n",
		enough + " -r /no/such/runtime --log-level odd": "[conmon:e]: No such log level odd\n",
	} {
		o, err := Parse(strings.Fields(args))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := o.CompleteAgain(); err != nil {
			got = err.(*Exit).Stderr
		}
		if got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
		if want == "" && (o.Runtime != "/no/such/runtime" || o.Bundle != "/b") {
			t.Errorf("%s: %+v", args, o)
		}
		if _, err := o.Complete(); err == nil {
			t.Errorf("%s: good enough to begin with", args)
		}
	}
}

func TestSyslog(t *testing.T) {
	for args, want := range map[string]string{
		"--syslog -c 0123456789abcdef0123456789": "conmon 0123456789abcdef0123 <error>: Container UUID not provided. Use --cuuid",
		"--syslog -c x --log-tag tag":            "conmon x: tag <error>: Container UUID not provided. Use --cuuid",
		"-c x":                                   "",
	} {
		o, err := Parse(strings.Fields(args))
		if err != nil {
			t.Fatal(err)
		}
		_, err = o.Complete()
		if got := err.(*Exit).Syslog; got != want {
			t.Errorf("%s: %q", args, got)
		}
	}
}

// The expressions are those of Podman 4.3 (common/pkg/config/default.go,
// probeConmon) and CRI-O (internal/config/conmonmgr).
func TestVersion(t *testing.T) {
	_, err := Parse([]string{"--version"})
	exit := err.(*Exit)
	if exit.Status != 0 || exit.Stderr != "" {
		t.Errorf("%+v", exit)
	}
	podman := regexp.MustCompile(`^(version:|conmon version)? (?P<Major>\d+).(?P<Minor>\d+).(?P<Patch>\d+)`)
	if m := podman.FindStringSubmatch(exit.Stdout); len(m) != 5 || m[2] != "2" || m[3] != "2" {
		t.Errorf("Podman reads %q as %q", exit.Stdout, m)
	}
	if fields := strings.Fields(exit.Stdout); fields[2] != Conmon {
		t.Errorf("CRI-O reads %q as version %q", exit.Stdout, fields[2])
	}
	if lines := strings.Split(exit.Stdout, "\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], "commit: gracemon ") {
		t.Errorf("podman info would show %q", exit.Stdout)
	}
}

func TestHelp(t *testing.T) {
	_, err := Parse([]string{"--help"})
	exit := err.(*Exit)
	if exit.Status != 0 {
		t.Errorf("%+v", exit)
	}
	for _, want := range []string{"\n  -h, --help ", "\n  -0, --persist-dir=DIR ", "\n  --log-global-size-max=BYTES ", "\n  --recover=DIR "} {
		if !strings.Contains(exit.Stdout, want) {
			t.Errorf("no %q in\n%s", want, exit.Stdout)
		}
	}
	if strings.Contains(exit.Stdout, "--pidfile") {
		t.Error("a hidden option is shown")
	}
}

func TestRecover(t *testing.T) {
	for _, line := range []string{"--recover /run/gracerun", "--keeper"} {
		o, err := Parse(strings.Fields(line))
		if err != nil || o.Recover == "" && !o.Keeper {
			t.Errorf("%s: %+v %v", line, o, err)
		}
	}
}

func TestRuntimeRoot(t *testing.T) {
	for args, want := range map[string]string{
		"": "", "--debug": "", "--root=/a": "/a", "--root /a": "/a", "-root /a": "/a", "--root": "",
		"--root=/a --log-format=json --root /b": "/b", "--rootless true": "",
	} {
		o := &Options{RuntimeArgs: strings.Fields(args)}
		if got := o.RuntimeRoot(); got != want {
			t.Errorf("%s: %q", args, got)
		}
	}
}

// A supervisor stays resident with all that it imports.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		switch p {
		case "fmt", "os", "flag", "net", "regexp":
			t.Errorf("imports %s", p)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-c\nx\n--timeout=7\n-stiT\n0x10")
	f.Add("--log-path=k8s-file:f\n--\n-h")
	f.Add("-l\n:\n-c\nx\n-u\nu\n-r\n/bin/true")
	f.Fuzz(func(t *testing.T, lines string) {
		args := strings.Split(lines, "\n")
		o, err := Parse(args)
		if err == nil {
			_, err = o.Complete()
		}
		if err != nil {
			exit := err.(*Exit)
			if (exit.Stdout == "") == (exit.Stderr == "") || (exit.Status == 0) != (exit.Stderr == "") || !strings.HasSuffix(exit.Stdout+exit.Stderr, "\n") {
				t.Errorf("%q: %+v", args, exit)
			}
			return
		}
		if o.Timeout != int(int32(o.Timeout)) || o.Runtime == "" || o.ContainerPIDFile == "" || len(o.Log) == 0 {
			t.Errorf("%q: %+v", args, o)
		}
		if argv := o.RuntimeCommand(""); argv[0] != o.Runtime || argv[len(argv)-1] != o.ID {
			t.Errorf("%q: runs %q", args, argv)
		}
	})
}
