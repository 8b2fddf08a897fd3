package recorder

import (
	"bytes"
	"os"
	"os/exec"
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
