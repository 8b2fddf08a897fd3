package crash

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/internal/testbed"
	"gracerun.io/supervisor/recovery"
)

// tmpfs mounts a small tmpfs for the test.
func tmpfs(t *testing.T, dir, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill takes all the room there is on the file system of the directory; what it
// gives makes room again.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 16; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return func() { os.Remove(path) }
}

// trouble runs a container that is in trouble from its start to its stop, and ends
// it as if nothing was the matter.
func trouble(t *testing.T, s *stack, p plan, begin func(r *round), during func(r *round)) {
	t.Helper()
	r := &round{plan: p, keeper: true}
	r.deaf = p.after < 0
	var err error
	if r.container, err = s.make(p); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.remove(); err != nil {
			t.Error(err)
		}
	}()
	begin(r)
	if err := r.create(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.gracerun("start", r.id); err != nil {
		t.Fatal(err)
	}
	r.awaitLines(t, 1)
	during(r)
	if r.answer == "" {
		out, err := r.gracerun("stop", r.id)
		if r.answer = strings.TrimSpace(out); r.answer == "" {
			t.Fatal(err)
		}
	}
	if err := until("the exit is recorded and its exit command was run", func() bool { return exists(r.exit()) && r.commands() > 0 }); err != nil {
		t.Fatal(err)
	}
	r.check()
	for _, p := range r.problems {
		t.Error(p)
	}
	if t.Failed() {
		t.Logf("%s", r.journal)
	}
}

// awaitLines waits until it has written so many more.
func (r *round) awaitLines(t *testing.T, more uint64) {
	t.Helper()
	r.awaitTotal(t, r.counts().Lines[0]+more)
}

// awaitTotal waits until it has written so many in all.
func (r *round) awaitTotal(t *testing.T, least uint64) {
	t.Helper()
	if err := until("it writes", func() bool { return r.counts().Lines[0] >= least }); err != nil {
		t.Fatal(err)
	}
}

var calm = plan{code: 4, after: 30 * time.Millisecond, burst: 2, pause: 2 * time.Millisecond, grace: 20 * time.Second}

// TestLogDiskFull: while the log's disk is full the container goes on, also over
// its supervisor's death; then everything is in the log.
func TestLogDiskFull(t *testing.T) {
	trouble(t, newStack(t, "runc"), calm, func(r *round) {
		tmpfs(t, r.dir+"/logs", "size=8m")
		if err := os.Symlink("logs/log", r.log()); err != nil {
			t.Fatal(err)
		}
	}, func(r *round) {
		empty := fill(t, r.dir+"/logs")
		r.awaitLines(t, 200)
		r.killMonitor()
		r.awaitLines(t, 200)
		empty()
	})
}

// TestLogDiskFullAtTheEnd: the container ends while its log's disk is full. Its exit is
// known at once, it can be deleted, and when there is room again everything is in the
// log, also over its supervisor's death.
func TestLogDiskFullAtTheEnd(t *testing.T) {
	for name, p := range map[string]struct{ kill, remove bool }{"goes on": {}, "is killed": {kill: true}, "is deleted": {remove: true}} {
		t.Run(name, func(t *testing.T) {
			trouble(t, newStack(t, "runc"), calm, func(r *round) {
				tmpfs(t, r.dir+"/logs", "size=8m")
				if err := os.Symlink("logs/log", r.log()); err != nil {
					t.Fatal(err)
				}
			}, func(r *round) {
				empty := fill(t, r.dir+"/logs")
				r.awaitLines(t, 200)
				r.stopNow(t)
				if err := until("the exit is recorded", func() bool { return exists(r.exit()) && r.commands() > 0 }); err != nil {
					t.Fatal(err)
				}
				if p.kill {
					r.killMonitor()
				}
				if p.remove {
					begin := time.Now()
					r.deleted = true
					if _, err := r.gracerun("delete", r.id); err != nil {
						t.Error(err)
					}
					if took := time.Since(begin); took > 10*time.Second {
						t.Errorf("delete took %s", took)
					}
				}
				empty()
				if err := until("its supervisor ends", func() bool {
					if exists(r.stateDir() + "/" + recovery.OriginName) {
						return false
					}
					fd := r.monitor()
					if fd >= 0 {
						fd.Close()
					}
					return fd < 0
				}); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestStateFull: without any room for state the container is stopped in time,
// with its output and its exit. Of a supervisor that dies then, what was not in
// the state directory any more is lost; that is not tried here.
func TestStateFull(t *testing.T) {
	s := newStack(t, "runc")
	tmpfs(t, s.state, "size=1m,mode=700")
	deaf := calm
	deaf.after, deaf.grace = -time.Millisecond, 500*time.Millisecond
	for name, p := range map[string]plan{"ends by itself": calm, "killed at its deadline": deaf} {
		t.Run(name, func(t *testing.T) {
			var empty func()
			trouble(t, s, p, func(*round) {}, func(r *round) {
				empty = fill(t, s.state)
				r.awaitLines(t, 300)
				r.deadline = r.stopNow(t) + p.grace // the journal has no room for it
			})
			empty()
		})
	}
}

// stopNow stops it, and gives when that began.
func (r *round) stopNow(t *testing.T) time.Duration {
	t.Helper()
	begin := testbed.Now()
	out, err := r.gracerun("stop", r.id)
	if r.answer = strings.TrimSpace(out); r.answer == "" {
		t.Fatal(err)
	}
	return begin
}

// TestStateReadOnly: the state directory cannot be written from some moment on.
func TestStateReadOnly(t *testing.T) {
	s := newStack(t, "runc")
	tmpfs(t, s.state, "size=4m,mode=700")
	trouble(t, s, calm, func(*round) {}, func(r *round) {
		// A mount with files that are open for writing cannot be made read-only; its
		// directories can be kept from change by a mount of them.
		if err := unix.Mount(r.stateDir(), r.stateDir(), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("", r.stateDir(), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(r.stateDir(), unix.MNT_DETACH) })
		r.awaitLines(t, 100)
		r.stopNow(t)
		_ = unix.Unmount(r.stateDir(), unix.MNT_DETACH)
	})
}

// TestNoDescriptors: a supervisor that gets no more descriptors keeps its
// container, and does what it could not do when there are some again.
func TestNoDescriptors(t *testing.T) {
	trouble(t, newStack(t, "runc"), calm, func(*round) {}, func(r *round) {
		pid, _ := r.supervisor(t)
		var old unix.Rlimit
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
			t.Fatal(err)
		}
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}, nil); err != nil {
			t.Fatal(err)
		}
		before := ticks(t, pid)
		answered := make(chan time.Duration, 1)
		go func() { answered <- r.stopNow(t) }()
		r.awaitLines(t, 300)
		select {
		case <-answered:
			t.Error("it had a descriptor for a caller: nothing shows that it can do without")
		default:
		}
		if used := ticks(t, pid) - before; used > 20 {
			t.Errorf("it has used %d0 ms of the processor while it waited for a descriptor", used)
		}
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &old, nil); err != nil {
			t.Fatal(err)
		}
		<-answered
	})
}

// ticks is how long a process was on the processor, in ticks of 10 ms.
func ticks(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return user + system
}

// TestLittleMemory: the supervisor is in a memory cgroup that is smaller than what
// it may keep for a log that cannot be written.
func TestLittleMemory(t *testing.T) {
	const parent = "/sys/fs/cgroup/memory"
	if _, err := os.Stat(parent + "/memory.limit_in_bytes"); err != nil {
		t.Skip("no memory controller of cgroup version 1 here")
	}
	p := calm
	p.burst, p.most = 200, 25_000 // more than 3 MiB, and less than what is kept for a log
	trouble(t, newStack(t, "runc"), p, func(r *round) {
		tmpfs(t, r.dir+"/logs", "size=64m")
		if err := os.Symlink("logs/log", r.log()); err != nil {
			t.Fatal(err)
		}
	}, func(r *round) {
		pid, _ := r.supervisor(t)
		group := filepath.Join(parent, r.id+"-monitor")
		if err := os.Mkdir(group, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(group) })
		for name, text := range map[string]string{"memory.limit_in_bytes": "3M", "cgroup.procs": strconv.Itoa(pid)} {
			if err := os.WriteFile(filepath.Join(group, name), []byte(text), 0); err != nil {
				t.Fatal(err)
			}
		}
		empty := fill(t, r.dir+"/logs")
		r.awaitTotal(t, uint64(p.most))
		empty()
		if now, _ := r.supervisor(t); now != pid {
			t.Logf("supervisor %d was killed, and %d goes on", pid, now)
		}
	})
}
