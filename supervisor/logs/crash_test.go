package logs

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/logs/spool"
	"gracerun.io/supervisor/loop"
)

// victim is a supervisor: it moves output from the FIFOs of a state directory
// to a log until it is killed, or until both FIFOs have no writer.
func victim() {
	dir := os.Getenv("LOGS_TEST_VICTIM")
	var l *Logs
	lp, err := loop.New()
	if err == nil {
		l, err = Open(victimOptions(dir, lp))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "victim:", err)
		os.Exit(1)
	}
	open := 0
	for source := range Source(sources) {
		fd, err := unix.Open(filepath.Join(dir, source.String()), unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			fmt.Fprintln(os.Stderr, "victim:", err)
			os.Exit(1)
		}
		open++
		l.Stream(source, fd, false).Watch(func() {
			if open--; open == 0 {
				lp.Stop()
			}
		})
	}
	fmt.Println("ready")
	if err := lp.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "victim:", err)
		os.Exit(1)
	}
	l.Finish()
	waitForLog(lp, l)
	l.Close()
	os.Exit(0)
}

// waitForLog waits as a supervisor does whose container has ended, if a write to the
// log takes long.
func waitForLog(lp *loop.Loop, l *Logs) {
	var tick loop.Timer
	tick.Fire = func() {
		if !l.Hangs() && l.Owed() == 0 {
			lp.Stop()
		}
		lp.Arm(&tick, loop.Now().After(lifecycle.Millisecond))
	}
	lp.Arm(&tick, 0)
	if err := lp.Run(); err != nil {
		panic(err)
	}
}

func victimOptions(dir string, lp *loop.Loop) Options {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		panic(err)
	}
	var targets []Target
	for _, driver := range strings.Fields(os.Getenv("LOGS_TEST_DRIVERS")) {
		targets = append(targets, Target{driver, filepath.Join(dir, driver)})
	}
	o := Options{
		Targets: targets, Dir: fd, Loop: lp,
		Warn: func(text string) { fmt.Fprintln(os.Stderr, "victim warns:", text) },
	}
	if os.Getenv("LOGS_TEST_ROTATE") != "" {
		o.SizeMax, o.Rotate, o.MaxFiles = 1<<20, true, 1<<20
	}
	return o
}

// TestKilledAtAnyInstant kills supervisors at random instants, one after
// another, while two streams are written. The log must hold every byte of each
// stream once.
func TestKilledAtAnyInstant(t *testing.T) {
	containers := 1
	if os.Getenv("GRACERUN_SOAK") != "" {
		containers = 80
	}
	for n := range containers {
		for name, rotate := range map[string]bool{"k8s-file": true, "json-file": true, "k8s-file json-file": false} {
			t.Run(strconv.Itoa(n)+" "+name+" rotate="+strconv.FormatBool(rotate), func(t *testing.T) {
				t.Setenv("LOGS_TEST_DRIVERS", name)
				killManyOf(t, strings.Fields(name), rotate)
			})
		}
	}
}

func killManyOf(t *testing.T, drivers []string, rotate bool) {
	kills := 40
	if testing.Short() {
		kills = 15
	}
	seed := time.Now().UnixNano()
	random := rand.New(rand.NewSource(seed))
	dir, err := os.MkdirTemp(shm, "logs-crash-")
	if err != nil {
		dir = t.TempDir()
	}
	defer os.RemoveAll(dir)
	inRing, inFlight := 0, 0
	said := [sources]*speaker{}
	for source := range said {
		said[source] = speak(t, dir, Source(source), random.Int63())
	}
	for range kills {
		v := startVictim(t, dir, rotate)
		// Most of the time it lives long enough to work, now and then it dies
		// while it still settles what its predecessor has left.
		if random.Intn(4) > 0 {
			v.waitReady(t)
		}
		time.Sleep(time.Duration(random.Intn(4_000)) * time.Microsecond)
		v.kill()
		if rings, _ := filepath.Glob(filepath.Join(dir, "spool.*.ring")); len(rings) > 0 {
			inRing++
		}
		if flies(t, dir) {
			inFlight++
		}
	}
	for _, s := range said {
		s.stop()
	}
	v := startVictim(t, dir, rotate)
	v.waitReady(t)
	for _, s := range said {
		unix.Close(s.fd) // what is in a FIFO is gone when nobody has it open
	}
	if err := v.cmd.Wait(); err != nil {
		t.Fatalf("the last supervisor: %v", err)
	}
	total := 0
	for source, s := range said {
		for _, driver := range drivers {
			got := contentOf(t, dir, driver, Source(source).String())
			if want := s.text.Bytes(); !bytes.Equal(got, want) {
				at := 0
				for at < min(len(got), len(want)) && got[at] == want[at] {
					at++
				}
				t.Errorf("%s, %v: log has %d bytes, %d were written; they differ from byte %d on:\n got %.80q\nwant %.80q",
					driver, Source(source), len(got), len(want), at, got[at:], want[at:])
			}
		}
		total += s.text.Len()
	}
	t.Logf("%d supervisors killed, %d of them with a ring, %d in a large write, while %d bytes were written, seed %d", kills, inRing, inFlight, total, seed)
}

// flies reports whether a supervisor was killed in a large write to its log.
func flies(t *testing.T, dir string) bool {
	t.Helper()
	fd := must(unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0))
	defer unix.Close(fd)
	if !spool.Exists(fd, spool.CursorName) {
		return false
	}
	c, err := spool.OpenCursor(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for place := range spool.Logs {
		if i, set := c.Intent(place); set && i.Bytes >= flyFrom {
			return true
		}
	}
	return false
}

// speaker is a container that writes numbered lines of odd lengths.
type speaker struct {
	text bytes.Buffer // what was written
	fd   int
	end  chan struct{}
	done chan struct{}
}

func speak(t *testing.T, dir string, source Source, seed int64) *speaker {
	t.Helper()
	path := filepath.Join(dir, source.String())
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	// For reading too, so that the pipe outlives its reader.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &speaker{fd: fd, end: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		random := rand.New(rand.NewSource(seed))
		filler := strings.Repeat("abcdefghijklmnopqrstuvwxyz", 1000)
		for n := 0; ; n++ {
			line := strconv.Itoa(n) + " " + source.String() + " "
			switch random.Intn(40) {
			case 0:
				line = "" // an empty line
			case 1:
				line += filler[:random.Intn(len(filler))]
			default:
				line += filler[:random.Intn(200)]
			}
			line += "\n"
			for rest := []byte(line); len(rest) > 0; {
				select {
				case <-s.end:
					return
				default:
				}
				wrote, err := unix.Write(fd, rest)
				if err == unix.EAGAIN {
					waitWritable(fd)
					continue
				}
				if err != nil {
					panic(err)
				}
				s.text.Write(rest[:wrote])
				rest = rest[wrote:]
			}
		}
	}()
	return s
}

func waitWritable(fd int) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	unix.Poll(fds, 100)
}

func (s *speaker) stop() {
	close(s.end)
	<-s.done
}

type victimProcess struct {
	cmd   *exec.Cmd
	ready *os.File
}

func startVictim(t *testing.T, dir string, rotate bool) *victimProcess {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LOGS_TEST_VICTIM="+dir, "GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0")
	if rotate {
		cmd.Env = append(cmd.Env, "LOGS_TEST_ROTATE=1")
	}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	return &victimProcess{cmd, read}
}

func (v *victimProcess) waitReady(t *testing.T) {
	t.Helper()
	if _, err := v.ready.Read(make([]byte, 16)); err != nil {
		t.Fatalf("a supervisor did not come up: %v", err)
	}
}

func (v *victimProcess) kill() {
	v.cmd.Process.Kill()
	v.cmd.Wait()
	v.ready.Close()
}

// contentOf puts together what one stream has written, from the log of a driver.
func contentOf(t *testing.T, dir, driver, stream string) []byte {
	t.Helper()
	log := readRotated(t, filepath.Join(dir, driver))
	if driver == "json-file" {
		return jsonContent(log, stream)
	}
	return streamContent(log, stream)
}

// readRotated reads PATH.N to PATH.1 and PATH, in the order of their writing.
func readRotated(t *testing.T, path string) []byte {
	t.Helper()
	names, err := filepath.Glob(path + ".[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	number := func(name string) int { n, _ := strconv.Atoi(name[strings.LastIndexByte(name, '.')+1:]); return n }
	sort.Slice(names, func(i, j int) bool { return number(names[i]) > number(names[j]) })
	var all []byte
	for _, name := range append(names, path) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// streamContent puts together what one stream has written.
func streamContent(log []byte, stream string) []byte {
	var all []byte
	for len(log) > 0 {
		end := bytes.IndexByte(log, '\n')
		record := log[:end+1]
		log = log[end+1:]
		if len(record) < prefixLen || record[10] != 'T' || record[35] != ' ' || record[42] != ' ' {
			return append(all, fmt.Sprintf("<<no record: %.80q>>", record)...)
		}
		if string(record[36:42]) != stream {
			continue
		}
		text := record[prefixLen:]
		if record[43] == 'P' {
			text = text[:len(text)-1]
		}
		all = append(all, text...)
	}
	return all
}

// stepVictim is a supervisor that kills itself at the LOGS_TEST_STEP-th step of
// its cursor.
func stepVictim() {
	dir := os.Getenv("LOGS_TEST_STEPPER")
	left, _ := strconv.Atoi(os.Getenv("LOGS_TEST_STEP"))
	o := victimOptions(dir, nil)
	o.SizeMax, o.Rotate, o.MaxFiles = 4000, true, 100
	if most, _ := strconv.Atoi(os.Getenv("LOGS_TEST_SIZE")); most > 0 {
		o.SizeMax = int64(most)
	}
	o.step = func() {
		if left--; left == 0 {
			unix.Kill(unix.Getpid(), unix.SIGKILL)
		}
	}
	fd, err := unix.Open(filepath.Join(dir, "stdout"), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		panic(err)
	}
	l, err := Open(o)
	if err != nil {
		panic(err)
	}
	l.Stream(Stdout, fd, false).Drain()
	l.Finish()
	l.Close()
	os.Exit(0)
}

// TestKilledAtEachStep kills supervisors before and after each store to their
// cursor, so that there is no point between two system calls that is left out.
func TestKilledAtEachStep(t *testing.T) {
	t.Run("little", func(t *testing.T) {
		said := numbered(0, 300) + strings.Repeat("long", 3000) + "\n" + numbered(300, 400) + "no end"
		killAtEachStep(t, "k8s-file", said, 4000, 1)
	})
	t.Run("two files", func(t *testing.T) {
		said := numbered(0, 300) + strings.Repeat("long", 9000) + "\n" + numbered(300, 400) + "no end"
		killAtEachStep(t, "k8s-file json-file", said, 40_000, 1)
	})
	t.Run("much", func(t *testing.T) { // by the spool's ring
		said := numbered(0, 20_000) + strings.Repeat("long", 3000) + "\n" + numbered(20_000, 24_000) + "no end"
		if inRing := killAtEachStep(t, "k8s-file", said, 400_000, 3); inRing < 2 {
			t.Errorf("the ring was in use at %d steps", inRing)
		}
	})
}

func killAtEachStep(t *testing.T, drivers, said string, sizeMax, stride int) (inRing int) {
	run := func(dir string, step int) (killed bool) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "LOGS_TEST_STEPPER="+dir, "LOGS_TEST_STEP="+strconv.Itoa(step),
			"LOGS_TEST_DRIVERS="+drivers, "LOGS_TEST_SIZE="+strconv.Itoa(sizeMax), "GORACE=atexit_sleep_ms=0")
		cmd.Stderr = os.Stderr
		err := cmd.Run()
		status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if err != nil && status.Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: %v", step, err)
		}
		return err != nil
	}
	switch {
	case testing.Short():
		stride = 7
	case os.Getenv("GRACERUN_SOAK") != "":
		stride = 1
	}
	steps := 0
	for killed := true; killed; {
		steps += stride
		dir := t.TempDir()
		fifo := filepath.Join(dir, "stdout")
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		hold, err := unix.Open(fifo, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(uintptr(hold), unix.F_SETPIPE_SZ, bigPipe); err != nil {
			t.Fatal(err)
		}
		unix.Write(hold, []byte(said))
		killed = run(dir, steps)
		if _, err := os.Stat(filepath.Join(dir, "spool.stdout.ring")); err == nil {
			inRing++
		}
		run(dir, 1+steps*7%23) // its successor is killed too, or not, and goes on
		run(dir, 0)
		unix.Close(hold)
		for _, driver := range strings.Fields(drivers) {
			if got := string(contentOf(t, dir, driver, "stdout")); got != said {
				t.Errorf("killed at step %d: the logs of %s have %d bytes of output, want %d", steps, driver, len(got), len(said))
			}
		}
	}
	if t.Logf("%d steps, the ring in use at %d", steps-1, inRing); steps < 50 {
		t.Errorf("only %d steps", steps)
	}
	return inRing
}

// TestEachCut puts a state directory into each state that a killed supervisor
// can leave, and has a successor go on.
func TestEachCut(t *testing.T) {
	const said = "one\ntwo\nthree\n" // in the spool
	const stamp = "2026-01-02T03:04:05.000000006+00:00 stdout F "
	const had, wrote = stamp + "zero\n", stamp + "one\n" + stamp + "two\n"
	const all = "T stdout F zero\nT stdout F one\nT stdout F two\nT stdout F three\n"
	intent := func(ino uint64, dev uint64) *spool.Intent {
		return &spool.Intent{Stream: 0, From: 0, To: 8, Dev: dev, Ino: ino,
			Before: int64(len(had)), Bytes: int64(len(wrote)), Total: int64(len(had) + len(wrote))}
	}
	type state struct {
		spool string
		log   string
		pos   int64
		want  string
		set   bool // the intent
	}
	cuts := map[string]state{
		"spliced, nothing else":         {spool: said, log: had, want: all},
		"intent set, not written":       {spool: said, log: had, set: true, want: all},
		"written, not committed":        {spool: said, log: had + wrote, set: true, want: all},
		"moved on, intent not cleared":  {spool: said, log: had + wrote, pos: 8, set: true, want: all},
		"committed":                     {spool: said, log: had + wrote, pos: 8, want: all},
		"everything committed":          {spool: said, log: had + wrote + stamp + "three\n", pos: int64(len(said)), want: all},
		"spool cut, position not reset": {spool: "", log: had + wrote + stamp + "three\n", pos: int64(len(said)), want: all},
		"spool cut, position reset":     {spool: "", log: had + wrote + stamp + "three\n", want: all},
		"cut by somebody else":          {spool: said, log: "", set: true, want: strings.TrimPrefix(all, "T stdout F zero\n")},
	}
	for torn := 1; torn < len(wrote); torn++ {
		cuts["torn after "+strconv.Itoa(torn)] = state{spool: said, log: had + wrote[:torn], set: true, want: all}
	}
	for name, cut := range cuts {
		for _, moved := range []bool{false, true} {
			if moved && !cut.set {
				continue
			}
			t.Run(name+map[bool]string{true: ", log moved away since"}[moved], func(t *testing.T) {
				dir := t.TempDir()
				log := filepath.Join(dir, "log")
				os.WriteFile(log, []byte(cut.log), 0o600)
				os.WriteFile(filepath.Join(dir, "spool.stdout"), []byte(cut.spool), 0o600)
				var st unix.Stat_t
				if err := unix.Stat(log, &st); err != nil {
					t.Fatal(err)
				}
				d := openDir(t, dir)
				c, err := spool.OpenCursor(d)
				if err != nil {
					t.Fatal(err)
				}
				if cut.set {
					c.Begin(0, intent(st.Ino, st.Dev))
				}
				c.SetPos(0, 0, cut.pos, false)
				c.SetPos(0, 1, 0, false)
				c.Close()
				old := log
				if moved {
					old = log + ".20260102-030405"
					os.Rename(log, old)
				}
				l, err := Open(Options{Targets: toFile(log), Dir: d, Warn: func(text string) { t.Error(text) }})
				if err != nil {
					t.Fatal(err)
				}
				l.Finish()
				s := l.stream(Stdout)
				if left := s.left(); left != 0 {
					t.Errorf("%d bytes are left in the spool", left)
				}
				if _, set := l.cursor.Intent(0); set {
					t.Error("the intent is still set")
				}
				l.Close()
				b, err := os.ReadFile(log)
				if err != nil {
					t.Fatal(err)
				}
				if moved {
					before, err := os.ReadFile(old)
					if err != nil {
						t.Fatal(err)
					}
					b = append(before, b...)
				}
				if got := masked(string(b)); got != cut.want {
					t.Errorf("log is\n%s\nwant\n%s", got, cut.want)
				}
			})
		}
	}
}
