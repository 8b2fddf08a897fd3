package monitor

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gracerun.io/internal/testbed"
	"gracerun.io/runtime/statedir"
	"gracerun.io/supervisor/control"
)

// What gracemon does beyond conmon, over each runtime.
func forOurs(t *testing.T, run func(t *testing.T, s *stack)) {
	for _, runtime := range []string{"runc", "crun"} {
		ours, _ := stacks(runtime)
		t.Run(runtime, func(t *testing.T) {
			ours.need(t)
			run(t, ours)
		})
	}
}

// counts TERMs and obeys nobody but KILL.
const deaf = `n=0; trap 'n=$((n+1)); echo TERM $n' TERM; echo up; while :; do sleep 0.02; done`

// obedient ends at the first TERM, after a moment in which others can come.
const obedient = `trap 'echo TERM; sleep 0.3; exit 5' TERM; echo up; while :; do sleep 0.02; done`

func (c *container) annotate(pairs ...string) {
	c.spec.Annotations = map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		c.spec.Annotations[pairs[i]] = pairs[i+1]
	}
}

func (c *container) up() {
	c.t.Helper()
	c.started()
	c.says("stdout F up")
}

func (c *container) expect(what, got, want string) {
	c.t.Helper()
	if got != want {
		c.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestStateThroughLife(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.created()
		pid := strconv.Itoa(c.pid())
		c.expect("created", c.ask("state"), "state status=created pid="+pid+" phase=created")
		c.call("start", c.id)
		c.says("stdout F up")
		c.expect("running", c.ask("state"), "state status=running pid="+pid+" phase=running")
		c.call("pause", c.id)
		c.expect("paused", c.ask("state"), "state status=paused pid="+pid+" phase=running")
		c.call("resume", c.id)
		c.expect("resumed", c.ask("state"), "state status=running pid="+pid+" phase=running")
		c.expect("stop", c.ask("stop grace=20s"), "ended code=5")
		c.expect("exit file", c.exitFile(), "5")
		c.gone()
		if _, err := statedir.Open(c.root, c.id); err == nil {
			t.Error("the state directory is still there")
		}
	})
}

// Everybody stops it at once: systemd by TERM to the supervisor, twice, and two
// callers. It hears TERM once.
func TestOneTERMWhoeverStops(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.up()
		var callers sync.WaitGroup
		conns := []control.Conn{c.dial(), c.dial()}
		for _, conn := range conns {
			callers.Go(func() { c.expect("stop", c.askOn(conn, "stop grace=20s"), "ended code=5") })
		}
		c.signalMonitor("TERM")
		c.signalMonitor("TERM")
		callers.Wait()
		c.expect("story", c.ended(), "exit 5, persisted 5\nstdout F TERM\nstdout F up")
	})
}

func TestGraceIsKeptAndEnds(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, deaf)
		c.annotate("io.gracerun.grace", "700ms")
		c.up()
		begin := time.Now()
		c.signalMonitor("TERM")
		c.expect("story", c.ended(), "exit 137, persisted 137\nstdout F TERM 1\nstdout F up")
		if took := time.Since(begin); took < 700*time.Millisecond {
			t.Errorf("killed after %v, before its grace of 700ms was over", took)
		}
	})
}

func TestEarlyKillIsHeldUnderEnforce(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.configure("[stop]\npolicy = \"enforce\"\n")
		c.up()
		c.expect("TERM", c.ask("signal TERM"), "delivered")
		c.expect("TERM again", c.ask("signal TERM"), "joined")
		c.expect("KILL", c.ask("signal KILL"), "ended code=5")
		c.expect("story", c.ended(), "exit 5, persisted 5\nstdout F TERM\nstdout F up")
	})
}

func TestEarlyKillPassesAndIsNotedUnderObserve(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.annotate("io.gracerun.policy", "observe")
		c.up()
		c.expect("TERM", c.ask("signal TERM"), "delivered")
		c.says("stdout F TERM")
		conn := c.dial()
		c.expect("keep", c.askOn(conn, "keep"), "done")
		c.expect("KILL", c.askOn(conn, "signal KILL "+byOperator), "delivered")
		c.expect("exit file", c.exitFile(), "137")
		c.gone()
		if j := c.journal(); !regexp.MustCompile(`breach #2 early-kill in=[0-9]+ns `+byOperator+`[ ;]`).MatchString(j) || !strings.Contains(j, "by-request") {
			t.Errorf("the journal does not tell of the early kill, and whose it was:\n%s", j)
		}
	})
}

// Callers, as gracerun says who has called it.
const (
	byCrio      = "by=/usr/bin/crio,812,4711,0,crio.service"
	byCrioAgain = "by=/usr/bin/crio,1812,9711,0,crio.service"
	byOperator  = "by=/bin/bash,900,5000,0,session-1.scope"
)

// The default: CRI-O may end the grace period that it has opened, after a restart,
// too. Nobody else may.
func TestOpenerEndsItsOwnGracePeriod(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		for _, opener := range []string{byCrio, byCrioAgain} {
			c := s.container(t, deaf)
			c.annotate("io.gracerun.grace", "10m")
			c.up()
			c.expect("TERM", c.ask("signal TERM "+byCrio), "delivered")
			c.expect("TERM of somebody else", c.ask("signal TERM "+byOperator), "joined")
			held := make(chan string)
			conn, impatient := c.dial(), c.dial()
			go func() { held <- c.askOn(impatient, "signal KILL "+byOperator) }()
			c.must(testbed.Until(t.Context(), "the supervisor has heard the operator", func() bool {
				return strings.Contains(c.journal(), "signal #3 SIGKILL "+byOperator+" | stopping")
			}))
			c.expect("keep", c.askOn(conn, "keep"), "done")
			c.expect("KILL of CRI-O", c.askOn(conn, "signal KILL "+opener), "delivered")
			c.expect("KILL of the operator", <-held, "ended signal=9")
			c.expect("exit file", c.exitFile(), "137")
			c.gone()
			if j := c.journal(); !strings.Contains(j, "record-exit signal=SIGKILL by-opener") || strings.Contains(j, "breach") {
				t.Errorf("it is not recorded as CRI-O's own deadline:\n%s", j)
			}
		}
	})
}

// systemd's SIGTERM to the monitor changes nothing while CRI-O stops the container,
// whose own grace would be over soon.
func TestMonitorsTermShortensNothing(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, "trap 'echo TERM; sleep 2; echo saved; exit 5' TERM; echo up; while :; do sleep 0.1; done")
		c.annotate("io.gracerun.grace", "1s")
		c.up()
		c.expect("TERM", c.ask("signal TERM "+byCrio), "delivered")
		c.signalMonitor("TERM")
		c.must(testbed.Until(t.Context(), "the supervisor has heard systemd", func() bool {
			return strings.Contains(c.journal(), "monitor-signal SIGTERM")
		}))
		if j := c.journal(); !strings.Contains(j, "monitor-signal SIGTERM | stopping") {
			t.Skip("the machine stood still until the grace period had lapsed")
		}
		c.expect("story", c.ended(), "exit 5, persisted 5\nstdout F TERM\nstdout F saved\nstdout F up")
	})
}

// Who connects by itself is its own caller.
func TestCallerOfTheSocketIsKnown(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, obedient)
	c.up()
	c.expect("USR1", c.ask("signal CONT"), "delivered")
	self, err := os.Readlink("/proc/self/exe")
	c.must(err)
	if want := fmt.Sprintf("signal #1 SIGCONT by=%s,%d,", self, os.Getpid()); !strings.Contains(c.journal(), want) {
		t.Errorf("the journal has no %q:\n%s", want, c.journal())
	}
}

func TestForceAndGraceZeroKillAtOnce(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		for _, request := range []string{"stop grace=0", "signal KILL force"} {
			c := s.container(t, deaf)
			c.configure("[stop]\npolicy = \"enforce\"\n")
			c.up()
			c.ask("signal TERM")
			c.ask(request)
			c.expect(request, c.exitFile(), "137")
		}
	})
}

// A stop of a frozen container thaws it, so that it can act on TERM.
func TestPausedContainerHearsItsStop(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.up()
		c.call("pause", c.id)
		c.expect("stop", c.ask("stop grace=20s"), "ended code=5")
		c.expect("story", c.ended(), "exit 5, persisted 5\nstdout F TERM\nstdout F up")
	})
}

func TestDeleteAsksForLeave(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, deaf)
		c.up()
		c.expect("delete of a running one", c.ask("delete"), "refused it is running")
		c.expect("forced", c.ask("delete force"), "granted")
		c.expect("exit file", c.exitFile(), "137")

		c = s.container(t, deaf)
		c.created()
		c.expect("delete of one that was never started", c.ask("delete"), "granted")
		c.expect("exit file", c.exitFile(), "137")
	})
}

func TestStartIsGrantedOnce(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.created()
		starter := c.dial()
		c.expect("start", c.askOn(starter, "start"), "granted")
		c.expect("a second start", c.ask("start"), "refused it is being started")
		c.call("start", c.id)
		c.expect("start-done", c.askOn(starter, "start-done status=0"), "done")
		c.expect("a third start", c.ask("start"), "refused it is running")
		c.says("stdout F up")
		c.ask("stop grace=20s")
	})
}

// Nobody says that the start ended, since the caller died: it runs all the same.
func TestStarterDies(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.created()
		starter := c.dial()
		c.expect("start", c.askOn(starter, "start"), "granted")
		c.call("start", c.id)
		starter.Close()
		c.says("stdout F up")
		c.until("the supervisor has found out", func() bool { return strings.Contains(c.ask("state"), "status=running") })
		c.expect("stop", c.ask("stop grace=20s"), "ended code=5")
	})
}

// TERM comes while the runtime is at work. It is not lost.
func TestTERMDuringCreate(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.wrapRuntime(`case "$*" in *" create "*) touch ` + c.dir + `/creating; while ! [ -e ` + c.dir + `/go ]; do sleep 0.02; done;; esac`)
		c.expectStatus(c.create(), 0)
		c.until("the runtime is at work", func() bool { return exists(c.dir + "/creating") })
		c.signalMonitor("TERM")
		c.until("the machine has heard", func() bool { return strings.Contains(c.journal(), "monitor-signal") })
		c.expect("a start meanwhile", c.ask("start"), "refused it is not created yet")
		c.expect("keep", c.ask("keep"), "done")
		c.must(os.WriteFile(c.dir+"/go", nil, 0o644))
		c.expect("sync pipe", c.message(), `{"pid": PID}`)
		c.until("TERM is delivered to the created init", func() bool { return strings.Contains(c.journal(), "delivered stop SIGTERM ok") })
		// runc's init ends at once, crun's is deaf; neither may be started now.
		if conn, err := control.Dial(c.state().FD()); err == nil {
			defer conn.Close()
			reply, err := conn.Ask(control.Request{Verb: control.Start}, patience)
			if err == nil && reply.Answer != control.Refused && reply.Answer != control.NotRunning {
				t.Errorf("a start after it was told to stop: %+v", reply)
			}
		}
	})
}

// The runtime hangs and the grace runs out: the create fails, and says so.
func TestCreateThatHangsIsAborted(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.annotate("io.gracerun.grace", "200ms")
		c.wrapRuntime(`case "$*" in *" create "*) touch ` + c.dir + `/creating; exec sleep 1000;; esac`)
		c.expectStatus(c.create(), 0)
		c.until("the runtime is at work", func() bool { return exists(c.dir + "/creating") })
		conn := c.dial()
		c.signalMonitor("TERM")
		c.expect("sync pipe", c.message(), `{"pid": -1, "message": "Failed to create container: it was stopped before it was there"}`)
		c.expect("sync pipe", c.message(), "EOF")
		_ = conn
		c.gone()
		if exists(c.dir + "/state") {
			left, _ := filepath.Glob(c.dir + "/state/[^.]*/*")
			if len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		}
	})
}

// A process that init has left behind keeps the output open, in the host's pid
// namespace: the exit is recorded all the same, and what is left in the cgroup
// is killed, once.
func TestWhatIsLeftOfTheContainer(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, `sleep 1000 & echo $! > /data/left; echo up; exit 4`)
		c.spec.Linux.Namespaces = slices.DeleteFunc(c.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
		c.started()
		c.expect("story", c.ended(), "exit 4, persisted 4\nstdout F up")
		text, err := os.ReadFile(c.dir + "/left")
		c.must(err)
		left, err := strconv.Atoi(strings.TrimSpace(string(text)))
		c.must(err)
		c.until("what was left is gone", func() bool { return !running(left) })
	})
}

// Orphans of a container in the host's pid namespace come to the supervisor.
func TestOrphansAreReaped(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, `for i in 1 2 3 4 5; do (sleep 0.01 & exit); done; sleep 0.3; echo up; while :; do sleep 0.02; done`)
		c.spec.Linux.Namespaces = slices.DeleteFunc(c.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
		c.up()
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.monitor, c.monitor))
		c.must(err)
		for _, pid := range strings.Fields(string(text)) {
			stat, _ := os.ReadFile("/proc/" + pid + "/stat")
			if strings.Contains(string(stat), ") Z ") {
				t.Errorf("child %s is a zombie: %s", pid, stat)
			}
		}
		c.ask("stop grace=0")
	})
}

func TestOOM(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		if s.namespace != "" {
			t.Skip("the memory controller is not in cgroup2 on this host")
		}
		c := s.container(t, `echo up; exec tail /dev/zero`)
		limit := int64(48 << 20)
		c.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
		c.started()
		conn := c.dial()
		c.askOn(conn, "keep")
		c.expect("exit file", c.exitFile(), "137")
		for _, file := range []string{c.bundle + "/oom", c.dir + "/persist/oom"} {
			if !exists(file) {
				t.Errorf("%s is not there", file)
			}
		}
		c.gone()
		if j := c.journal(); !strings.Contains(j, "record-exit signal=SIGKILL by-oom") {
			t.Errorf("the reason is not recorded:\n%s", j)
		}
	})
}

// What the caller left open, as Podman does ports, is closed when the exit file
// appears.
func TestPortsAreFreeWhenTheExitIsKnown(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		c.must(err)
		address := listener.Addr().String()
		f, err := listener.(*net.TCPListener).File()
		c.must(err)
		listener.Close()
		c.files = []*os.File{f}
		c.up()
		f.Close()
		if l, err := net.Listen("tcp4", address); err == nil {
			l.Close()
			t.Error("the port is not kept busy while the container runs")
		}
		c.ask("stop grace=20s")
		c.exitFile()
		l, err := net.Listen("tcp4", address)
		if err != nil {
			t.Errorf("the port is not free when the exit file is there: %v", err)
		} else {
			l.Close()
		}
	})
}

// A full disk is not a lost exit.
func TestExitIsRecordedWhenItCanBe(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, "exit 3")
		c.env = []string{"GRACERUN_FAULTS=effect.record-exit do=error errno=28 count=2"}
		c.started(c.exitCommand()...)
		c.expect("exit file", c.exitFile(), "3")
		c.until("the exit command has run", func() bool { return c.exitCommandSaw() != "" })
		c.expect("exit command", c.exitCommandSaw(), "one two words exit file: 3")
	})
}

// Nobody waits for an exit in a directory that is gone.
func TestExitDirectoryIsGone(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, "exit 3")
		c.created(c.exitCommand()...)
		c.must(os.Remove(c.exits))
		c.call("start", c.id)
		c.until("the exit command has run", func() bool { return c.exitCommandSaw() != "" })
		c.expect("exit command", c.exitCommandSaw(), "one two words exit file: none")
		c.gone()
	})
}

func TestKeptStateTellsTheExit(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, obedient)
		c.annotate("io.gracerun.grace", "20s", "org.example.key", "value")
		c.up()
		c.expect("keep", c.ask("keep"), "done")
		record, err := c.state().ReadRecord()
		c.must(err)
		if record.Init == "" || record.Grace != 20*time.Second || record.RuntimeRoot != c.root {
			t.Errorf("record is %+v", record)
		}
		c.ask("stop")
		c.gone()
		record, err = c.state().ReadRecord()
		c.must(err)
		if record.Exit.Status != "code=5" || record.Exit.Reason != "in-grace" {
			t.Errorf("exit is %+v", record.Exit)
		}
	})
}

// Hundreds of callers at once; each gets one true answer.
func TestManyCallers(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, `n=0; trap 'n=$((n+1)); echo USR1' USR1; trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done`)
	c.up()
	const callers = 200
	var done sync.WaitGroup
	dir := c.state()
	for i := range callers {
		done.Go(func() {
			conn, err := control.Dial(dir.FD())
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			request := control.Request{Verb: control.State}
			if i%2 == 1 {
				request = control.Request{Verb: control.Signal, Signal: 10}
			}
			reply, err := conn.Ask(request, patience)
			if err != nil || reply.Answer != control.Current && reply.Answer != control.Delivered {
				t.Errorf("caller %d: %+v, %v", i, reply, err)
			}
		})
	}
	done.Wait()
	c.expect("stop", c.ask("stop grace=20s"), "ended code=5")
}

// The daemon never gives memory back: what callers ask over and over must not
// take any.
func TestRequestsTakeNoMemory(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	c := ours.container(t, `trap : USR1; trap 'exit 5' TERM; echo up; while :; do sleep 1000 & wait; done`)
	c.env = []string{"GRACEMON_SLEEP=off"} // one who sleeps has nothing to compare with
	c.up()
	dir := c.state()
	ask := func(n int) {
		for range n {
			for _, r := range []control.Request{{Verb: control.State}, {Verb: control.Signal, Signal: 18}} {
				conn, err := control.Dial(dir.FD())
				c.must(err)
				if _, err := conn.Ask(r, patience); err != nil {
					t.Fatal(err)
				}
				conn.Close()
			}
		}
	}
	ask(200) // buffers grow to their size
	// Once in a while the Go runtime takes another thread; what requests take is
	// taken by each batch of them.
	const batches, rounds = 4, 500
	least, before := 1<<30, c.private()
	for range batches {
		ask(rounds)
		now := c.private()
		least, before = min(least, now-before), now
	}
	if least > 25 {
		t.Errorf("%d KiB or more for each %d requests: %d bytes each", least, 2*rounds, least*1024/(2*rounds))
	}
	c.ask("stop grace=20s")
}

// private gives the KiB that the monitor has for itself.
func (c *container) private() (kib int) {
	c.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", c.monitor))
	c.must(err)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[0], "Private_") {
			n, err := strconv.Atoi(fields[1])
			c.must(err)
			kib += n
		}
	}
	return kib
}

func (c *container) expectStatus(got, want int) {
	c.t.Helper()
	if got != want {
		c.t.Fatalf("exit status %d, want %d: %s", got, want, c.stderr)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
