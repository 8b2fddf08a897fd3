package monitor

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/recovery"
)

// alert says at once what it hears, and ends at a TERM.
const alert = `sleep 100000 >/dev/null 2>&1 & trap 'echo INT' INT; trap 'echo QUIT' QUIT; trap 'echo TERM; kill $!; exit 5' TERM; echo up; while :; do wait; done`

// TestNoSignalIsLost: at whatever instant a signal comes to a supervisor, which falls
// asleep and wakes up all the time, the container has it, once. In the soak there are
// 20,000 wakes.
func TestNoSignalIsLost(t *testing.T) {
	ours, _ := stacks("runc")
	ours.need(t)
	wakes, each := 300, 30
	if os.Getenv("GRACERUN_SOAK") != "" {
		wakes = 20_000
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	state := t.TempDir()
	woken, sent := 0, map[string]int{}
	for round := 0; woken < wakes; round++ {
		var some []*wakeful
		for range 4 {
			c := ours.container(t, alert)
			c.env = []string{"GRACEMON_SLEEP=1ms", "GRACERUN_STATE_DIR=" + state}
			c.up()
			some = append(some, &wakeful{container: c, notes: notesOf(t, state, c.id), random: rand.New(rand.NewPCG(random.Uint64(), 0)), sent: map[string]int{}})
		}
		var all sync.WaitGroup
		for _, c := range some {
			all.Go(func() { c.disturb(each) })
		}
		all.Wait()
		for _, c := range some {
			if c.lost != "" {
				status, _ := os.ReadFile("/proc/" + strconv.Itoa(c.monitor) + "/status")
				t.Fatalf("round %d: %s\nthe log: %s\nits supervisor:\n%s", round, c.lost, strings.Join(c.lines(), ";"), status)
			}
			c.expect("exit file", c.exitFile(), "5")
			c.gone()
			woken += c.woken
			for name, n := range c.sent {
				sent[name] += n
			}
			c.remove()
		}
	}
	t.Logf("%d wakes; heard: %v", woken, sent)
}

// notesOf is the path of a supervisor's notes.
func notesOf(t *testing.T, state, id string) string {
	t.Helper()
	found, err := filepath.Glob(state + "/*/" + id + "/" + recovery.NotesName)
	if err != nil || len(found) != 1 {
		t.Fatalf("notes of %s: %v, %v", id, found, err)
	}
	return found[0]
}

// wakeful is a container whose supervisor is not left in peace.
type wakeful struct {
	*container
	notes  string
	random *rand.Rand
	sent   map[string]int
	woken  int
	lost   string // what, if anything
}

// disturb sends so many signals in groups, in which each comes once, and a TERM at
// last. It calls nothing that ends a test: it runs on a goroutine of its own.
func (c *wakeful) disturb(signals int) {
	generation := func() int {
		page, err := os.ReadFile(c.notes)
		if err != nil || len(page) < 16 {
			return 0
		}
		return int(binary.NativeEndian.Uint64(page[8:]))
	}
	send := func(name string) {
		if err := unix.Kill(c.monitor, unix.SignalNum("SIG"+name)); err != nil {
			c.lost = name + ": " + err.Error()
		}
		c.sent[name]++
	}
	heard := func(name string) bool {
		text, _ := os.ReadFile(c.log)
		return bytes.Count(text, []byte(" stdout F "+name+"\n")) == c.sent[name]
	}
	for n := 0; n < signals && c.lost == ""; {
		names := []string{"INT", "QUIT"}
		if c.random.IntN(2) == 0 {
			names[0], names[1] = names[1], names[0]
		}
		for _, name := range names[:1+c.random.IntN(2)] {
			send(name)
			n++
			c.pause(2 * time.Millisecond)
		}
		c.await(func() bool { return heard("INT") && heard("QUIT") }, "INT or QUIT")
		c.woken = max(c.woken, generation())
		if c.random.IntN(3) == 0 {
			c.pause(100 * time.Millisecond) // it waits longer and longer before it sleeps
		} else {
			c.pause(8 * time.Millisecond)
		}
	}
	if c.lost == "" {
		send("TERM")
		c.await(func() bool { return heard("TERM") }, "TERM")
	}
}

func (c *wakeful) await(holds func() bool, what string) {
	for deadline := time.Now().Add(patience); c.lost == "" && !holds(); time.Sleep(500 * time.Microsecond) {
		if time.Now().After(deadline) {
			c.lost = what + " reached nobody"
		}
	}
}

// pause is one of up to that length.
func (c *wakeful) pause(most time.Duration) {
	time.Sleep(time.Duration(c.random.Int64N(int64(most))))
}
