package cmdline

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// accepted is what conmon says of a command line it has nothing against, when
// the start pipe is none: it ends there, before it starts anything.
const accepted = "[conmon:e]: unable to parse _OCI_STARTPIPE"

// conmon runs the real one and gives its exit status and all that it wrote;
// older versions write some of it to stdout.
type conmon struct {
	path, dir, help string
}

// withConmons runs a test with the installed one, and the newer one that make
// deps has unpacked.
func withConmons(t *testing.T, test func(t *testing.T, c conmon)) {
	newer, err := filepath.Abs("../../.work/trixie/usr/bin/conmon")
	if err != nil {
		t.Fatal(err)
	}
	for version, name := range map[string]string{"installed": "conmon", "newer": newer} {
		t.Run(version, func(t *testing.T) {
			path, err := exec.LookPath(name)
			if err != nil {
				t.Skip("there is no " + name + " to compare with (make deps installs it)")
			}
			c := conmon{path: path, dir: t.TempDir()}
			_, c.help = c.run(t, "--help")
			test(t, c)
		})
	}
}

func (c conmon) run(t *testing.T, args ...string) (status int, output string) {
	cmd := exec.Command(c.path, args...)
	cmd.Env = []string{"LC_ALL=C.UTF-8", "_OCI_STARTPIPE=none"}
	cmd.Dir = c.dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	// conmon 2.1.6 has no colon in some of these.
	return cmd.ProcessState.ExitCode(), strings.ReplaceAll(out.String(), "[conmon:e] ", "[conmon:e]: ")
}

// has tells whether this version has all the options, by their long names.
func (c conmon) has(args []string) bool {
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		for _, newer := range []string{"log-rotate", "log-max-files", "log-allowlist-dir", "log-label", "no-container-partial-message"} {
			if name == "--"+newer && !strings.Contains(c.help, name) {
				return false
			}
		}
	}
	return true
}

// ours gives exit status and output as conmon.run does.
func ours(args []string) (status int, output string) {
	o, err := Parse(args)
	if err == nil {
		_, err = o.Complete()
	}
	if err == nil {
		return 1, accepted
	}
	exit := err.(*Exit)
	return exit.Status, exit.Stdout + exit.Stderr
}

func (c conmon) compare(t *testing.T, args []string) {
	t.Helper()
	if !c.has(args) {
		return
	}
	t.Chdir(c.dir)
	wantStatus, want := c.run(t, args...)
	status, got := ours(args)
	switch {
	case strings.HasPrefix(want, "Usage:"):
		// The text is our own.
		if status != 0 || !strings.HasPrefix(got, "Usage:") {
			t.Errorf("%q: conmon shows its help, gracemon says %d %q", args, status, got)
		}
	case strings.HasPrefix(want, "conmon version "):
		if status != 0 || !strings.HasPrefix(got, "conmon version ") {
			t.Errorf("%q: conmon shows its version, gracemon says %d %q", args, status, got)
		}
	case strings.Contains(want, accepted): // maybe below messages of --log-level
		if got != accepted {
			t.Errorf("%q: conmon accepts this, gracemon says %d %q", args, status, got)
		}
	case status != wantStatus || got != want:
		t.Errorf("%q:\n conmon   %d %q\n gracemon %d %q", args, wantStatus, want, status, got)
	}
}

func TestLikeConmon(t *testing.T) { withConmons(t, likeConmon) }

func likeConmon(t *testing.T, c conmon) {
	// Enough to be accepted; cases put more before it. Not among them: "-T 0b1",
	// which newer C libraries take.
	enough := "-c 0123456789abcdef -u u -r /bin/true -l none "
	for _, line := range []string{
		"", "--", "-", "x", "-- --version",
		"--help", "-h", "-?", "--help-all", "-ih", "--nope --help", "--help --nope", "--helpx", "--help-x", "--version --help",
		"--version", "--version=no", "--version --nope", "-c --version",
		"--nope", "--nope=1", "-x", "-ix", "-xi", "--c x", "---", "--=", "--=x", "-=", "-c=x",
		"--cid", "-c", "--cid=x", "--cid x", "-c x", "-cx", "-cux u", "-ic x", "-ci x", "-ci", "-c --", "-c -h",
		"--cid=a --cid=b", "--cid -- --version", "--stdin=false", "--stdin= -c x",
		"--timeout=1 " + enough, "--timeout= " + enough, "--timeout=x " + enough, "-T -1 " + enough, "-T x " + enough,
		"-T 0x10 " + enough, "-T 0x " + enough, "-T 0xg " + enough, "-T 010 " + enough, "-T 08 " + enough, "-T +5 " + enough,
		"-T +-5 " + enough, "-T - " + enough, "-T 1_0 " + enough, "-T 0o7 " + enough, "-T 1e3 " + enough,
		"-T 2147483647 " + enough, "-T 2147483648 " + enough, "-T -2147483648 " + enough, "-T -2147483649 " + enough,
		"-T 99999999999999999999 " + enough, "-T 99999999999999999999x " + enough, "-T -0x80000000 " + enough,
		"--log-size-max 9223372036854775807 " + enough, "--log-size-max 9223372036854775808 " + enough,
		"--log-size-max -9223372036854775808 " + enough, "--log-size-max=-0x8000000000000001 " + enough,
		"--log-size-max 1.5 " + enough, "--log-global-size-max -1 " + enough, "--exit-delay=-1 " + enough,
		"--log-max-files=-1", "--log-max-files=0 --log-rotate", "--log-max-files 0 " + enough, "--log-max-files=x",
		"-c x", "-c x -e", "-c x -e --api-version", "-c x -u u", "-c x -u u -r /nonexistent", "-c x -u u -r /etc/passwd", "-c x -u u -r /etc/passwd/x",
		"-c x -u u -r /bin/true", "-c x -e -r /bin/true", "-c x -e -r /bin/true --exec-process-spec /x -l none", "-c x -e --restore /x",
		"-c x --exec-attach", "-c x --exec-attach -e", "-c x --exec-attach -e --api-version -u u -r /bin/true --exec-process-spec x -l off",
		"--log-level nope -c x", "--log-level DEBUG " + enough, "--log-level=fatal " + enough, "--log-level warning " + enough, "--log-level panic -c x",
		"--api-version 1 " + enough, "--api-version=1 " + enough, "-P p -p q -b b -n n -0 d -s -t -i -e " + enough, "-stie " + enough,
		"-0d " + enough, "-0 " + enough, "--pidfile p --restore-arg a --runtime-arg=--root=/x --runtime-opt --preserve-fds --runtime-opt 2 " + enough,
		"-l null " + enough, "-l journald " + enough, "-l passthrough " + enough, "-l journald: " + enough, "-l k8s-file " + enough,
		"-l k8s-file: " + enough, "-l k8s-file:f " + enough, "-l f " + enough, "-l :f " + enough, "-l :none " + enough, "-l : " + enough, "-l :: " + enough,
		"-l nope: " + enough, "-l nope:f " + enough, "-l /x:f " + enough, "-l= " + enough, "--log-path= " + enough, "-l k8s-file::f " + enough,
		"-l f --log-tag t " + enough, "-l journald --log-tag t " + enough, "-l f -l journald --log-tag t " + enough, "--log-tag t " + enough,
		"-c 0123456789ab -u u -r /bin/true -l journald", "-c 0123456789abc -u u -r /bin/true -l journald", "-c x -u u -r /bin/true -l nope:x -l journald",
		"-l f --log-label A=b " + enough, "-l journald --log-label A=b --log-label X_1= " + enough, "-l journald --log-label =b " + enough,
		"-l journald --log-label Ab " + enough, "-l journald --log-label A=b=c " + enough, "-l journald --log-label a=b " + enough, "--log-label nope " + enough,
		"--seccomp-notify-plugins p " + enough,
		"--sdnotify-socket s --socket-dir-path d --full-attach --sync --syslog --no-pivot --no-new-keyring --no-sync-log --replace-listen-pid --leave-stdin-open " + enough,
	} {
		c.compare(t, strings.Fields(line))
	}
	for _, args := range [][]string{
		{""}, {"--", ""}, {"-T", "", "-c", "x"}, {"-T", " 7", "-c", "x"}, {"-T", "7 ", "-c", "x"}, {"-T", " ", "-c", "x"}, {"-T", "\t\v\f\r\n-7", "-c", "x"},
		{"-n", "\xff"}, {"-n", "ü", "-c", "x"}, {"-T", "\xff"}, {"--\xff"}, {"-ü"}, {"-l", "", "-c", "x", "-u", "u", "-r", "/bin/true"},
	} {
		c.compare(t, args)
	}
}

// Command lines at random, of words that mean something to the parser.
func TestLikeConmonAtRandom(t *testing.T) { withConmons(t, likeConmonAtRandom) }

func likeConmonAtRandom(t *testing.T, c conmon) {
	words := strings.Fields("-c -c -u -r /bin/true -l none journald f -i -t -e -s -T -T 7 0x -1 -P -p -b -n -0 -ci -ti -ce -iTc " +
		"--cid --cid=x --cuuid=u --cuuid --runtime=/bin/true --runtime --log-path=none --log-path --exec --exec-attach --api-version 1 " +
		"--exec-process-spec=s --restore --timeout --timeout=9 --exit-delay --exit-delay=-1 --log-tag --log-level=info --log-level --name " +
		"--stdin=x -- - --version -v --nope --sync --exit-command --exit-command-arg --full-attach 0123456789abcdef")
	rounds := 400
	if testing.Short() {
		rounds = 100
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range rounds {
		var args []string
		for range random.IntN(12) {
			args = append(args, words[random.IntN(len(words))])
		}
		c.compare(t, args)
	}
}

// Where gracemon is to differ, and conmon does what is said.
func TestUnlikeConmon(t *testing.T) { withConmons(t, unlikeConmon) }

func unlikeConmon(t *testing.T, c conmon) {
	t.Chdir(c.dir)
	for _, test := range []struct {
		why    string
		args   []string
		conmon string
		ours   string
	}{
		{"an empty text is taken for a missing one", []string{"--cid="},
			"[conmon:e]: Container UUID not provided. Use --cuuid\n", "conmon: Container ID not provided. Use --cid\n"},
		{"a path may have a colon in it", strings.Fields("-c x -u u -r /bin/true -l k8s-file:a:b"), accepted, accepted},
	} {
		_, said := c.run(t, test.args...)
		if !strings.HasPrefix(said, test.conmon) {
			t.Errorf("%s: conmon says %q", test.why, said)
		}
		if _, said := ours(test.args); said != test.ours {
			t.Errorf("%s: gracemon says %q", test.why, said)
		}
	}
	if _, err := os.Stat(filepath.Join(c.dir, "a")); err != nil {
		t.Errorf("conmon no longer cuts a log path at a colon: %v", err)
	}
}
