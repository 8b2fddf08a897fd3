package keeper

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
	"gracerun.io/supervisor/program"
)

// The keeper is this test binary, and so is the successor that it starts, which
// writes down what it was given.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "--keeper":
			os.Exit(Main(os.Args[0], func(string) {}))
		case "--crowd":
			os.Exit(beCrowd(os.Args[2]))
		case "--recover":
			os.Exit(beSuccessor(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

const limit = 60 * time.Second

// beSuccessor reads from the descriptor "stdout" what there is, and fails as often
// as the directory has files to be removed.
func beSuccessor(dir string) int {
	if unix.Unlink(dir+"/fail") == nil {
		return 1
	}
	said := os.Getenv(KeptVariable) + "\n"
	for entry := range strings.SplitSeq(os.Getenv(KeptVariable), ",") {
		if fd, ok := strings.CutPrefix(entry, Stdout+"="); ok {
			n, _ := strconv.Atoi(fd)
			var buf [100]byte
			got, _ := unix.Read(n, buf[:])
			said += string(buf[:max(got, 0)])
		}
	}
	RestoreLimit()
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || os.WriteFile(dir+"/limit", []byte(limitText(limit)), 0o600) != nil {
		return 2
	}
	temp := dir + "/successor.new"
	if os.WriteFile(temp, []byte(said), 0o600) != nil || os.Rename(temp, dir+"/successor") != nil {
		return 2
	}
	return 0
}

// base makes an empty base, whose keepers end with the test.
func base(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("GRACERUN_STATE_DIR", dir)
	t.Cleanup(func() {
		for _, pid := range keepers(t, dir) {
			if p, err := process.Open(pid); err == nil {
				_ = p.Send(signals.KILL)
				p.Close()
			}
		}
	})
	return dir
}

// keepers are the processes of keepers of that base.
func keepers(t *testing.T, base string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if bytes.HasSuffix(cmdline, []byte("\x00--keeper\x00")) && bytes.Contains(env, []byte("GRACERUN_STATE_DIR="+base+"\x00")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func connect(t *testing.T) int {
	t.Helper()
	conn, err := patientConnect(t)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// patientConnect tries again as a supervisor does.
func patientConnect(t *testing.T) (conn int, err error) {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if conn, err = Connect(0, os.Args[0], 1); err != ErrBusy {
			break
		}
	}
	return conn, err
}

func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return fds[0], fds[1]
}

// TestOneKeeper: however many supervisors come at once, one keeper is started, and
// another when that is dead.
func TestOneKeeper(t *testing.T) {
	dir := base(t)
	for round := range 3 {
		var all sync.WaitGroup
		conns := make([]int, 24)
		for i := range conns {
			all.Go(func() {
				var err error
				if conns[i], err = patientConnect(t); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		var pid int
		until(t, "there is a keeper", func() bool {
			pids := keepers(t, dir)
			if len(pids) == 1 {
				pid = pids[0]
			}
			return len(pids) > 0
		})
		if pids := keepers(t, dir); len(pids) != 1 {
			t.Fatalf("round %d: keepers are %v", round, pids)
		}
		p, err := process.Open(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Send(signals.KILL); err != nil {
			t.Fatal(err)
		}
		p.Close()
		for _, conn := range conns {
			fds := []unix.PollFd{{Fd: int32(conn), Events: unix.POLLIN}}
			if n, err := unix.Poll(fds, int(limit.Milliseconds())); n != 1 || err != nil {
				t.Errorf("the end of the keeper is not seen: %d, %v", n, err)
			}
			unix.Close(conn)
		}
		until(t, "the keeper is gone", func() bool { return len(keepers(t, dir)) == 0 })
	}
}

// soonBusy fails unless Connect says at once that the keeper is busy.
func soonBusy(t *testing.T) {
	t.Helper()
	said := make(chan error, 1)
	go func() {
		conn, err := Connect(0, os.Args[0], 0)
		if err == nil {
			unix.Close(conn)
		}
		said <- err
	}()
	select {
	case err := <-said:
		if err != ErrBusy {
			t.Errorf("got %v, want %v", err, ErrBusy)
		}
	case <-time.After(limit):
		t.Fatal("it waits for another process")
	}
}

// A process that is stopped while it holds the lock holds no supervisor up.
func TestNobodyWaitsForTheLock(t *testing.T) {
	dir := base(t)
	lock, err := lockBase(dir)
	if err != nil {
		t.Fatal(err)
	}
	soonBusy(t)
	unix.Close(lock)
	unix.Close(connect(t))
}

// A keeper that is stopped, and has no room for more connections, does not either.
func TestNobodyWaitsForAStoppedKeeper(t *testing.T) {
	dir := base(t)
	path, err := Socket(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	stopped, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stopped)
	if err := unix.Bind(stopped, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(stopped, 0); err != nil {
		t.Fatal(err)
	}
	first := connect(t) // fills the backlog
	defer unix.Close(first)
	soonBusy(t)
}

// TestSuccessor: a connection that ends without a word is a death; what was
// stored comes to the successor, which is started again if it fails.
func TestSuccessor(t *testing.T) {
	base(t)
	state := filepath.Join(t.TempDir(), "a container")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state+"/fail", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	conn := connect(t)
	r, w := pipe(t)
	other, otherW := pipe(t)
	if err := Store(conn, state, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := Store(conn, state, []string{Stdout, Stdin}, []int{r, otherW}); err != nil {
		t.Fatal(err)
	}
	unix.Close(r)
	unix.Close(otherW)
	// Nobody of this process has the reading end: what is written waits for the successor.
	if _, err := unix.Write(w, []byte("unread")); err != nil {
		t.Fatal(err)
	}
	unix.Close(w)
	if err := Remove(conn, Stdin); err != nil {
		t.Fatal(err)
	}
	var buf [1]byte
	if n, err := unix.Read(other, buf[:]); n != 0 || err != nil {
		t.Errorf("what was dropped is still open: %d, %v", n, err)
	}
	unix.Close(conn)
	until(t, "the successor has run", func() bool { _, err := os.Stat(state + "/successor"); return err == nil })
	said, err := os.ReadFile(state + "/successor")
	if want := Stdout + "=3\nunread"; err != nil || string(said) != want {
		t.Errorf("the successor says %q, %v; want %q", said, err, want)
	}
	if _, err := os.Stat(state + "/fail"); err == nil {
		t.Error("the first one did not fail: nothing shows that it is tried again")
	}
}

// TestDone: a supervisor that says so has nothing to be gone on with; one that
// comes for the same container takes the place of the one before. The keeper ends
// when nobody needs it.
func TestDone(t *testing.T) {
	dir := base(t)
	state := t.TempDir()
	first, second := connect(t), connect(t)
	r, w := pipe(t)
	if err := Store(first, state, []string{Stdout}, []int{r}); err != nil {
		t.Fatal(err)
	}
	unix.Close(r)
	if err := Store(second, state, nil, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "the keeper lets go of what the first had", func() bool {
		_, err := unix.Write(w, []byte{0})
		return err == unix.EPIPE
	})
	if err := Done(second); err != nil {
		t.Fatal(err)
	}
	unix.Close(first)
	unix.Close(second)
	until(t, "the keeper has ended", func() bool { return len(keepers(t, dir)) == 0 })
	if _, err := os.Stat(state + "/successor"); err == nil {
		t.Error("a successor was started though nobody died")
	}
	if path, err := Socket(dir, 0); err != nil {
		t.Error(err)
	} else if _, err := os.Stat(path); err == nil {
		t.Error("its socket is left")
	}
}

func TestEscape(t *testing.T) {
	for _, path := range []string{"/a b", `/a\b`, `/a\s b\\`, "/plain"} {
		if word := escape(path); strings.Contains(word, " ") || unescape(word) != path {
			t.Errorf("%q is written %q, which is read as %q", path, word, unescape(word))
		}
	}
}

// BenchmarkStore is what a container pays: to connect, store and be done.
func BenchmarkStore(b *testing.B) {
	dir := b.TempDir()
	b.Setenv("GRACERUN_STATE_DIR", dir)
	first, err := Connect(0, os.Args[0], 1) // starts the keeper
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(first)
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		conn, err := Connect(0, os.Args[0], 1)
		if err == nil {
			err = Store(conn, dir, []string{Init, Stdout, Stderr}, []int{fds[0], fds[0], fds[1]})
		}
		if err == nil {
			err = Done(conn)
		}
		if err != nil {
			b.Fatal(err)
		}
		unix.Close(conn)
	}
}

// A supervisor that had nothing to store yet has a successor too, and after that
// nothing of it stays.
func TestNothingHeld(t *testing.T) {
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{loop: l, program: program.New(os.Args[0]), say: func(text string) { t.Log(text) }}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/fail", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := &store{s: s, conn: -1, pidfd: -1, dir: dir, child: child{pidfd: -1}}
	h.timer.Fire = h.restart
	s.stores = append(s.stores, h)
	var late loop.Timer
	late.Fire = l.Stop
	l.Arm(&late, loop.Now().After(20*lifecycle.Second))
	s.idle.Fire = l.Stop
	h.restart()
	if err := l.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/successor"); err != nil || len(s.stores) != 0 {
		t.Errorf("%d are held on to, and of the successor's second try: %v", len(s.stores), err)
	}
}

func mustWrite(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAwait: who finds a supervisor dead leaves its succession to the keeper, which
// has what was stored.
func TestAwait(t *testing.T) {
	base(t)
	state, other := t.TempDir(), t.TempDir()
	Await(state, -1) // there is no keeper
	mustWrite(t, state+"/fail")
	conn := connect(t)
	Await(state, -1) // nothing is kept
	r, w := pipe(t)
	defer unix.Close(w)
	if err := Store(conn, state, []string{Stdout}, []int{r}); err != nil {
		t.Fatal(err)
	}
	unix.Close(r)
	if _, err := unix.Write(w, []byte("unread")); err != nil {
		t.Fatal(err)
	}
	Await(state, -1) // its supervisor lives
	Await(other, -1)
	unix.Close(conn)
	Await(state, -1)
	if said, err := os.ReadFile(state + "/successor"); err != nil || !strings.HasSuffix(string(said), "unread") {
		t.Errorf("there is no successor yet: %q, %v", said, err)
	}
	Await(state, -1)
}

// A keeper that is told to end holds what it has until it is not needed any more, and
// then ends at once.
func TestToldToEnd(t *testing.T) {
	for _, sig := range []signals.Signal{signals.TERM, signals.INT, signals.QUIT, signals.HUP} {
		t.Run(sig.String(), func(t *testing.T) {
			dir, state := base(t), t.TempDir()
			conn := connect(t)
			r, w := pipe(t)
			if err := Store(conn, state, []string{Stdout}, []int{r}); err != nil {
				t.Fatal(err)
			}
			unix.Close(r)
			var pid int
			until(t, "there is a keeper", func() bool {
				pids := keepers(t, dir)
				if len(pids) == 1 {
					pid = pids[0]
				}
				return pid != 0 && slices.Contains(descriptors(pid), "anon_inode:[eventpoll]") // made when it catches signals
			})
			for range 3 {
				if err := unix.Kill(pid, unix.Signal(sig)); err != nil {
					t.Fatal(err)
				}
			}
			// Another supervisor is served as ever.
			other, otherW := pipe(t)
			second, elsewhere := connect(t), t.TempDir()
			if err := Store(second, elsewhere, []string{Stdout}, []int{other}); err != nil {
				t.Fatal(err)
			}
			unix.Close(other)
			if err := Done(second); err != nil {
				t.Fatal(err)
			}
			until(t, "what the other had is let go of", func() bool { _, err := unix.Write(otherW, []byte{0}); return err == unix.EPIPE })
			if _, err := unix.Write(w, []byte("unread")); err != nil {
				t.Fatal(err)
			}
			unix.Close(conn)
			until(t, "there is a successor", func() bool { _, err := os.Stat(state + "/successor"); return err == nil })
			if said, err := os.ReadFile(state + "/successor"); err != nil || !strings.HasSuffix(string(said), "unread") {
				t.Errorf("the successor says %q, %v", said, err)
			}
			begin := time.Now()
			until(t, "the keeper has ended", func() bool { return len(keepers(t, dir)) == 0 })
			t.Logf("it has ended after %v", time.Since(begin))
			if path, err := Socket(dir, 0); err != nil {
				t.Error(err)
			} else if _, err := os.Stat(path); err == nil {
				t.Error("its socket is left")
			}
		})
	}
}

// crowd is how many supervisors come to keepers that have little room.
const crowd = 12

// beCrowd is so many supervisors in one process, which may have few descriptors.
func beCrowd(dir string) int {
	type supervisor struct{ conn, nth, fd int }
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 80, Max: 90}) != nil { // package os has raised it
		return 1
	}
	var all [crowd]supervisor
	come := func(i int) bool {
		s := &all[i]
		for {
			conn, err := Connect(s.nth, os.Args[0], 1)
			if err == ErrBusy {
				time.Sleep(time.Millisecond)
				continue
			}
			s.conn = conn
			return err == nil && Store(conn, dir+"/"+strconv.Itoa(i), []string{Stdout, Stderr, Stdin}, []int{s.fd, s.fd, s.fd}) == nil
		}
	}
	for i := range all {
		var fds [2]int
		if unix.Pipe2(fds[:], unix.O_CLOEXEC) != nil {
			return 1
		}
		if _, err := unix.Write(fds[1], []byte("unread "+strconv.Itoa(i))); err != nil {
			return 1
		}
		unix.Close(fds[1])
		if all[i].fd = fds[0]; !come(i) {
			return 1
		}
	}
	for {
		var fds []unix.PollFd
		for i := range all {
			fds = append(fds, unix.PollFd{Fd: int32(all[i].conn), Events: unix.POLLIN})
		}
		if _, err := unix.Poll(fds, -1); err != nil {
			continue
		}
		for i := range all {
			if fds[i].Revents == 0 {
				continue
			}
			if !IsFull(all[i].conn) {
				return 1
			}
			unix.Close(all[i].conn)
			all[i].nth++
			if !come(i) {
				return 1
			}
		}
	}
}

// TestShareOut: where a keeper may have few descriptors, others take what it has no
// room for, and nothing is lost. What a successor gets is the limit of its predecessor.
func TestShareOut(t *testing.T) {
	dir, states := base(t), t.TempDir()
	for i := range crowd {
		if err := os.Mkdir(states+"/"+strconv.Itoa(i), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `ulimit -n 90; exec "$0" "$@"`, self, "--crowd", states)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	// Each keeper has a connection and what is kept; the crowd has the other end.
	until(t, "all is stored", func() bool {
		select {
		case err := <-ended:
			t.Fatal("the crowd has ended: ", err)
		default:
		}
		kept := map[string]bool{}
		for _, pid := range keepers(t, dir) {
			for _, link := range descriptors(pid) {
				if strings.HasPrefix(link, "pipe:") {
					kept[link] = true
				}
			}
		}
		return len(kept) == crowd
	})
	pids := keepers(t, dir)
	if len(pids) < 2 {
		t.Errorf("there are %d keepers: nothing shows that they share", len(pids))
	}
	t.Logf("%d keepers for %d containers", len(pids), crowd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for i := range crowd {
		state := states + "/" + strconv.Itoa(i)
		until(t, "there is a successor", func() bool { _, err := os.Stat(state + "/successor"); return err == nil })
		said, err := os.ReadFile(state + "/successor")
		if want := "unread " + strconv.Itoa(i); err != nil || !strings.HasSuffix(string(said), want) {
			t.Errorf("a successor says %q, %v; want %q", said, err, want)
		}
		if limit, err := os.ReadFile(state + "/limit"); err != nil || string(limit) != "80:90" {
			t.Errorf("its limit is %q, %v", limit, err)
		}
	}
	until(t, "the keepers have ended", func() bool { return len(keepers(t, dir)) == 0 })
}

func descriptors(pid int) (links []string) {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		link, _ := os.Readlink(dir + e.Name())
		links = append(links, link)
	}
	return links
}

// What the kernel could not give with a packet is never taken for all of it.
func TestTruncated(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	var many []int
	for range maxFDs + 2 { // more than it has room for
		many = append(many, fds[0])
	}
	if err := Store(fds[0], "/x", make([]string, len(many)), many); err != nil {
		t.Fatal(err)
	}
	before := len(descriptors(os.Getpid()))
	if _, got, err := receive(fds[1]); err != errTruncated || got != nil {
		t.Errorf("receive gives %v, %v", got, err)
	}
	if after := len(descriptors(os.Getpid())); after != before {
		t.Errorf("%d descriptors were open, now %d", before, after)
	}
}
