package recorder

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gracerun.io/signals"
	"gracerun.io/timeline"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]Event{
		"            crun-8231    [001] d..2.  6250.120384: signal_generate: sig=15 errno=0 code=0 comm=led ger-1 pid=8200 grp=1 res=2": {
			At: 6250120384 * time.Microsecond, What: Generate, Signal: signals.TERM, Pid: 8200, Comm: "led ger-1", Sender: 8231, SenderComm: "crun", Result: AlreadyPending,
		},
		"   my-prog-8200    [000] d....  1.000001: signal_deliver: sig=9 errno=0 code=128 sa_handler=0 sa_flags=0": {
			At: 1000001 * time.Microsecond, What: Take, Signal: signals.KILL, Pid: 8200, Comm: "my-prog",
		},
		"  x-7 [000] ..... 2.500000: sched_process_exit: comm=x pid=7 prio=120 group_dead=true": {
			At: 2500 * time.Millisecond, What: End, Pid: 7, Comm: "x",
		},
	} {
		if ev, err := Parse(line); err != nil || ev != want {
			t.Errorf("%q:\n got %+v, %v\nwant %+v", line, ev, err, want)
		}
	}
	for _, line := range []string{"what", "x-7 [000] ..... 2.500000: sched_switch: prev", "x-7 [000] ..... 2.500000: signal_generate: sig=x"} {
		if ev, err := Parse(line); err == nil {
			t.Errorf("%q is read as %+v", line, ev)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("crun-8231 [001] d..2. 6250.120384: signal_generate: sig=15 errno=0 code=0 comm=ledger pid=8200 grp=1 res=0")
	f.Fuzz(func(t *testing.T, line string) { Parse(line) })
}

// TestRecord: signals to a process are seen with their sender, whoever it is.
func TestRecord(t *testing.T) {
	r, err := Start()
	if os.Geteuid() != 0 || err != nil {
		t.Skipf("cannot record here: %v", err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Errorf("the instance is left behind: %v", err)
		}
	}()
	// A shell that says when its trap is set, and goes on after a TERM.
	cmd := exec.Command("sh", "-c", "trap 'echo got' TERM; echo ready; while :; do read line; done")
	in, _ := cmd.StdinPipe()
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await := func(word string) {
		t.Helper()
		buf := make([]byte, 64)
		n, err := out.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), word) {
			t.Fatalf("%q, %v; want %q", buf[:n], err, word)
		}
	}
	await("ready")
	cmd.Process.Signal(syscall.SIGTERM)
	await("got")
	cmd.Process.Kill()
	cmd.Wait()

	events, err := r.Events(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	var tl timeline.Timeline
	Draw(&tl, events, signals.TERM)
	var text bytes.Buffer
	tl.Text(&text)
	count := map[What]map[signals.Signal]int{Generate: {}, Take: {}, End: {}}
	for _, ev := range events {
		count[ev.What][ev.Signal]++
		if ev.What == Generate && ev.Signal == signals.TERM && ev.SenderComm != "recorder.test" {
			t.Errorf("TERM is from %q (%d)", ev.SenderComm, ev.Sender)
		}
	}
	if count[Generate][signals.TERM] != 1 || count[Take][signals.TERM] != 1 || count[Generate][signals.KILL] != 1 || count[End][0] != 1 {
		t.Errorf("want TERM sent and taken, KILL sent, and the exit, each once:\n%s", text.String())
	}
}

// A recording of which the kernel has overwritten a part says so: it was read as
// one in which nothing had happened.
func TestIncomplete(t *testing.T) {
	r, err := Start()
	if os.Geteuid() != 0 || err != nil {
		t.Skipf("cannot record here: %v", err)
	}
	defer r.Close()
	if err := os.WriteFile(r.dir+"/buffer_size_kb", []byte("8"), 0); err != nil {
		t.Fatal(err)
	}
	storm(t, 5000)
	events, err := r.Events(os.Getpid())
	var incomplete *Incomplete
	if !errors.As(err, &incomplete) || incomplete.Lost < 1000 {
		t.Fatalf("%d events, %v; want it to say that thousands of records are lost", len(events), err)
	}
}

// What happens to others takes no room in a recording of some processes, however
// many they are.
func TestRecordOfSome(t *testing.T) {
	for _, others := range []int{0, 1000} {
		child := exec.Command("sleep", "1000")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		pids := []int{child.Process.Pid}
		for i := range others {
			pids = append(pids, child.Process.Pid+1+i)
		}
		r, err := Start(pids...)
		if os.Geteuid() != 0 || err != nil {
			t.Skipf("cannot record here: %v", err)
		}
		if err := os.WriteFile(r.dir+"/buffer_size_kb", []byte("64"), 0); err != nil {
			t.Fatal(err)
		}
		storm(t, 5000)
		child.Process.Signal(syscall.SIGTERM)
		child.Wait()
		events, err := r.Events(pids...)
		r.Close()
		var seen []What
		for _, ev := range events {
			if ev.Pid == child.Process.Pid {
				seen = append(seen, ev.What)
			}
		}
		if err != nil || !slices.Equal(seen, []What{Generate, Take, End}) {
			t.Errorf("beside %d: %v, %+v; want TERM sent and taken, and the exit", others, err, events)
		}
	}
}

// storm sends this process signals that it ignores.
func storm(t *testing.T, n int) {
	t.Helper()
	for range n {
		if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLostOf(t *testing.T) {
	if lost := lostOf("entries: 12\noverrun: 3\ncommit overrun: 1\nbytes: 4096\noldest event ts:  2750.25\nnow ts:  2760.7\ndropped events: 2\nread events: 0\n"); lost != 6 {
		t.Errorf("%d lost, want 6", lost)
	}
	for line, want := range map[string]int{
		"# entries-in-buffer/entries-written: 1024/4096   #P:2": 3072,
		"# entries-in-buffer/entries-written: 12/12   #P:2":     0,
		"# tracer: nop": 0,
	} {
		if got := overwritten(line); got != want {
			t.Errorf("%q: %d lost, want %d", line, got, want)
		}
	}
}
