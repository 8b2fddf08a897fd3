package process

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
)

func TestIdentifyAndOpenVerified(t *testing.T) {
	c := startSleep(t)
	id, err := Identify(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	if id.Pid != c.pid() || id.StartTime == 0 {
		t.Fatalf("identity is %v", id)
	}
	other := startSleep(t)
	otherID, err := Identify(other.pid())
	if err != nil {
		t.Fatal(err)
	}
	if id.PidfdInode == otherID.PidfdInode && id.PidfdInode != 0 {
		t.Fatalf("two processes have the inode %d", id.PidfdInode)
	}

	for _, test := range []struct {
		name string
		id   Identity
		want error
	}{
		{"as recorded", id, nil},
		{"start time only", Identity{Pid: id.Pid, StartTime: id.StartTime}, nil},
		{"another start time", Identity{Pid: id.Pid, StartTime: id.StartTime - 1}, ErrReused},
		{"number alone", Identity{Pid: id.Pid}, errNoIdentity},
		{"free number", Identity{Pid: maxPid + 1, StartTime: id.StartTime}, ErrGone},
	} {
		t.Run(test.name, func(t *testing.T) { checkOpenVerified(t, test.id, test.want) })
	}
	t.Run("inodes", func(t *testing.T) {
		kernelHas(t, 6, 9)
		if id.PidfdInode == 0 {
			t.Fatal("no inode was recorded")
		}
		checkOpenVerified(t, Identity{Pid: id.Pid, PidfdInode: id.PidfdInode}, nil)
		checkOpenVerified(t, Identity{Pid: id.Pid, StartTime: id.StartTime, PidfdInode: otherID.PidfdInode}, ErrReused)
	})
}

func checkOpenVerified(t *testing.T, id Identity, want error) {
	t.Helper()
	p, err := OpenVerified(id)
	if !errors.Is(err, want) {
		t.Errorf("OpenVerified(%v): %v, want %v", id, err, want)
	}
	if err == nil {
		p.Close()
	} else if p != -1 {
		t.Errorf("OpenVerified(%v): a descriptor and an error", id)
	}
}

// A process that exited is itself until it is reaped, and gone afterwards.
func TestIdentityOfAZombie(t *testing.T) {
	c := startSleep(t)
	p := openPidfd(t, c.pid())
	before, err := p.Identity(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Send(signals.KILL); err != nil {
		t.Fatal(err)
	}
	if exited, err := p.Wait(limit); !exited || err != nil {
		t.Fatalf("Wait is %v, %v", exited, err)
	}

	if stat, err := p.Stat(c.pid()); err != nil || stat.State != Zombie {
		t.Errorf("state is %c, %v; want a zombie", stat.State, err)
	}
	if id, err := Identify(c.pid()); id != before || err != nil {
		t.Errorf("zombie is %v, %v; was %v", id, err, before)
	}
	checkOpenVerified(t, before, nil)

	if _, err := p.Reap(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Stat(c.pid()); !errors.Is(err, ErrGone) {
		t.Errorf("Stat after it was reaped: %v, want ErrGone", err)
	}
	if _, err := Identify(c.pid()); !errors.Is(err, ErrGone) {
		t.Errorf("Identify after it was reaped: %v, want ErrGone", err)
	}
	checkOpenVerified(t, before, ErrGone)
}

// The scenario races.md calls bare-pid-kill, with a number that really is used
// again: a recorded identity refuses where kill(2) hits a stranger.
func TestReusedNumberIsNotHit(t *testing.T) {
	if !inPidNamespace(t) {
		return
	}
	first := startSleep(t)
	recorded, err := Identify(first.pid())
	if err != nil {
		t.Fatal(err)
	}
	endNow(t, first)

	// Start times count in ticks of 10 ms, so the stranger must be of a later one
	// if it is to be told by its start time.
	stranger := startWithNumber(t, recorded.Pid, func(id Identity) bool { return id.StartTime != recorded.StartTime })

	checkOpenVerified(t, recorded, ErrReused)
	checkOpenVerified(t, Identity{Pid: recorded.Pid, StartTime: recorded.StartTime}, ErrReused)
	if recorded.PidfdInode != 0 {
		checkOpenVerified(t, Identity{Pid: recorded.Pid, PidfdInode: recorded.PidfdInode}, ErrReused)
	}

	p := openPidfd(t, stranger.pid())
	if exited, err := p.Exited(); exited || err != nil {
		t.Fatalf("the stranger was hit: %v, %v", exited, err)
	}
	if err := unix.Kill(recorded.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exited, err := p.Wait(limit); !exited || err != nil {
		t.Fatalf("Wait is %v, %v", exited, err)
	}
	if status, err := p.Reap(); status.Signal != signals.TERM || err != nil {
		t.Errorf("the stranger ended with %+v, %v; a bare kill should have hit it", status, err)
	}
	checkOpenVerified(t, recorded, ErrGone)
}

// Why the inode is recorded: within one tick of the clock, a number and a start
// time can come back together.
func TestReuseWithinOneTick(t *testing.T) {
	kernelHas(t, 6, 9)
	if !inPidNamespace(t) {
		return
	}
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		first := startSleep(t)
		recorded, err := Identify(first.pid())
		if err != nil {
			t.Fatal(err)
		}
		endNow(t, first)
		stranger, id := tryNumber(t, recorded.Pid)
		if id.Pid != recorded.Pid || id.StartTime != recorded.StartTime {
			endNow(t, stranger)
			continue
		}
		checkOpenVerified(t, Identity{Pid: recorded.Pid, StartTime: recorded.StartTime}, nil) // fooled
		checkOpenVerified(t, recorded, ErrReused)
		return
	}
	t.Skip("this machine is too slow to start two processes within 10 ms")
}

// inPidNamespace runs the calling test again, alone, in a pid namespace and with
// a /proc of its own, and reports whether this is that run.
func inPidNamespace(t *testing.T) bool {
	t.Helper()
	const inside = "GRACERUN_PROCESS_TEST_INSIDE"
	if os.Getenv(inside) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	needRoot(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	t.Logf("in a pid namespace:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

func endNow(t *testing.T, c *child) {
	t.Helper()
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// startWithNumber starts processes until one has the number and is wanted. The
// Go runtime takes numbers for its threads in between.
func startWithNumber(t *testing.T, pid int, wanted func(Identity) bool) (c *child) {
	t.Helper()
	eventually(t, "a process with the number "+strconv.Itoa(pid), func() bool {
		var id Identity
		c, id = tryNumber(t, pid)
		if id.Pid == pid && wanted(id) {
			return true
		}
		endNow(t, c)
		return false
	})
	return c
}

func tryNumber(t *testing.T, pid int) (*child, Identity) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
		t.Fatal(err)
	}
	c := startSleep(t)
	id, err := Identify(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	return c, id
}

func TestIdentityText(t *testing.T) {
	id := Identity{Pid: 12, StartTime: 3456, PidfdInode: 789}
	const text = "pid=12 start=3456 pidfd-inode=789"
	if id.String() != text {
		t.Errorf("text is %q, want %q", id, text)
	}
	for _, text := range []string{text, "pidfd-inode=789\npid=12\nstart=3456\n"} {
		if got, err := ParseIdentity(text); got != id || err != nil {
			t.Errorf("ParseIdentity(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "pid=12", "pid=12 start=3456", "start=1 pidfd-inode=2", text + " pid=12", text + " x=1", text + " x",
		"pid=0 start=1 pidfd-inode=2", "pid=-1 start=1 pidfd-inode=2", "pid=4194305 start=1 pidfd-inode=2",
		"pid=12 start=x pidfd-inode=2", "pid=12 start= pidfd-inode=2", "pid=12 start=18446744073709551616 pidfd-inode=2",
	} {
		if got, err := ParseIdentity(text); err == nil {
			t.Errorf("ParseIdentity(%q) = %v, want an error", text, got)
		}
	}
}

func TestIdentityTextWithBoot(t *testing.T) {
	const boot = "5f2a5d5e-5d1c-4bb4-8a43-1d4fb2a8b1c4"
	const text = "pid=12 start=3456 pidfd-inode=789 boot=" + boot
	id, err := ParseIdentity(text)
	if err != nil || id.String() != text || id.Boot.String() != boot {
		t.Errorf("ParseIdentity(%q) = %v, %v", text, id, err)
	}
	for _, text := range []string{
		text + " boot=" + boot, text[:len(text)-1], text + "0", strings.ReplaceAll(text, "-4bb4-", "4-bb4-"),
		"pid=12 start=3456 pidfd-inode=789 boot=", "pid=12 start=3456 pidfd-inode=789 boot=00000000-0000-0000-0000-000000000000",
	} {
		if got, err := ParseIdentity(text); err == nil {
			t.Errorf("ParseIdentity(%q) = %v, want an error", text, got)
		}
	}
}

// What was written down before the machine was booted again fits nobody, though number,
// start time and inode may come again; and of what an older version has written down,
// without the boot, the start time counts as well as the inode.
func TestIdentityOfAnotherBoot(t *testing.T) {
	c := startSleep(t)
	id, err := Identify(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	if id.Boot == (BootID{}) {
		t.Fatal("the boot is not known")
	}
	checkOpenVerified(t, id, nil)
	other := id
	other.Boot[0]++
	checkOpenVerified(t, other, ErrReused)
	other.PidfdInode = 0
	checkOpenVerified(t, other, ErrReused)
	old := id
	old.Boot = BootID{}
	checkOpenVerified(t, old, nil)
	old.StartTime++
	checkOpenVerified(t, old, ErrReused)
}

func FuzzParseIdentity(f *testing.F) {
	f.Add("pid=1 start=1 pidfd-inode=1 boot=5f2a5d5e-5d1c-4bb4-8a43-1d4fb2a8b1c4")
	f.Add("pid=12 start=3456 pidfd-inode=789")
	f.Add("start=0\npid=4194304\npidfd-inode=18446744073709551615")
	f.Add("pid=1 pid=1 start=1 pidfd-inode=")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseIdentity(text)
		if err != nil {
			if id != (Identity{}) {
				t.Errorf("ParseIdentity(%q): %v and an error", text, id)
			}
			return
		}
		if id.Pid < 1 || id.Pid > maxPid {
			t.Errorf("ParseIdentity(%q) gives the number %d", text, id.Pid)
		}
		if again, err := ParseIdentity(id.String()); again != id || err != nil {
			t.Errorf("ParseIdentity(%q) = %v, which gives %v, %v", text, id, again, err)
		}
	})
}

// Complete adds the inode, and takes no other process for the one that is meant.
func TestComplete(t *testing.T) {
	c := startSleep(t)
	want, err := Identify(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		id   Identity
		want error
	}{
		{"start time only", Identity{Pid: want.Pid, StartTime: want.StartTime}, nil},
		{"another start time", Identity{Pid: want.Pid, StartTime: want.StartTime + 1}, ErrReused},
		{"number alone", Identity{Pid: want.Pid}, errNoIdentity},
		{"free number", Identity{Pid: maxPid + 1, StartTime: want.StartTime}, ErrGone},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, id, err := Complete(test.id)
			if !errors.Is(err, test.want) {
				t.Fatalf("Complete(%v): %v, want %v", test.id, err, test.want)
			}
			if err == nil {
				defer p.Close()
				if id != want {
					t.Errorf("Complete(%v) is %v, want %v", test.id, id, want)
				}
			} else if p != -1 || id != test.id {
				t.Errorf("Complete(%v) is %d, %v and an error", test.id, p, id)
			}
		})
	}
}
