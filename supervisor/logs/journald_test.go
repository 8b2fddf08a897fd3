package logs

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gracerun.io/supervisor/lifecycle"
	"gracerun.io/supervisor/loop"
)

const testID = "0123456789abcdef0123456789abcdef"

// journal is a journald that keeps what it is sent.
type journal struct {
	t    *testing.T
	path string
	fd   int
}

func startJournal(t *testing.T, path string) *journal {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		t.Fatal(err)
	}
	j := &journal{t, path, fd}
	t.Cleanup(j.stop)
	return j
}

func (j *journal) stop() {
	if j.fd >= 0 {
		unix.Close(j.fd)
		os.Remove(j.path)
		j.fd = -1
	}
}

// next gives the next message, nil if there is none now.
func (j *journal) next() [][2]string {
	j.t.Helper()
	buf, oob := make([]byte, 64<<10), make([]byte, 1000)
	n, oobn, _, _, err := unix.Recvmsg(j.fd, buf, oob, 0)
	if err == unix.EAGAIN {
		return nil
	}
	if err != nil {
		j.t.Fatal(err)
	}
	datagram := buf[:n]
	if oobn > 0 {
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			j.t.Fatal(err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			j.t.Fatal(err)
		}
		seals, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GET_SEALS, 0)
		if err != nil || seals != unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE {
			j.t.Errorf("seals %x, %v", seals, err)
		}
		file := os.NewFile(uintptr(fds[0]), "message")
		defer file.Close()
		size, _ := file.Seek(0, 2)
		datagram = make([]byte, size)
		if _, err := file.ReadAt(datagram, 0); err != nil {
			j.t.Fatal(err)
		}
	}
	return parseDatagram(j.t, datagram)
}

func (j *journal) all() (messages []string) {
	for m := j.next(); m != nil; m = j.next() {
		messages = append(messages, field(m, "MESSAGE"))
	}
	return messages
}

func field(message [][2]string, name string) string {
	for _, f := range message {
		if f[0] == name {
			return f[1]
		}
	}
	return "<none>"
}

// parseDatagram reads a message of the native protocol.
func parseDatagram(t *testing.T, b []byte) (fields [][2]string) {
	t.Helper()
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			t.Fatalf("a field without an end: %q", b)
		}
		if name, value, ok := strings.Cut(string(b[:end]), "="); ok {
			fields = append(fields, [2]string{name, value})
			b = b[end+1:]
			continue
		}
		name := string(b[:end])
		size := int(binary.LittleEndian.Uint64(b[end+1:]))
		b = b[end+9:]
		fields = append(fields, [2]string{name, string(b[:size])})
		if b[size] != '\n' {
			t.Fatalf("field %s has no end", name)
		}
		b = b[size+1:]
	}
	return fields
}

func runJournal(t *testing.T, o Options) (*container, *journal) {
	t.Helper()
	j := startJournal(t, filepath.Join(t.TempDir(), "socket"))
	o.Targets, o.JournalSocket = append(o.Targets, toJournal...), j.path
	if o.ID == "" {
		o.ID = testID
	}
	return run(t, o), j
}

func TestJournalFields(t *testing.T) {
	c, j := runJournal(t, Options{Name: "web", Tag: "the tag", Labels: []string{"APP=shop", "TWO=a\nb"}})
	c.says("hello\n")
	want := [][2]string{
		{"MESSAGE", "hello\n"}, {"PRIORITY", "6"},
		{"CONTAINER_ID_FULL", testID}, {"CONTAINER_ID", testID[:12]},
		{"CONTAINER_TAG", "the tag"}, {"CONTAINER_NAME", "web"}, {"SYSLOG_IDENTIFIER", "the tag"},
		{"APP", "shop"}, {"TWO", "a\nb"},
	}
	if got := j.next(); !reflect.DeepEqual(got, want) {
		t.Errorf("message is %q, want %q", got, want)
	}
	c.ends()
}

func TestJournalIdentifier(t *testing.T) {
	for want, o := range map[string]Options{
		testID[:12]: {},
		"web":       {Name: "web"},
		"tag":       {Name: "web", Tag: "tag"},
	} {
		c, j := runJournal(t, o)
		c.says("x\n")
		if got := field(j.next(), "SYSLOG_IDENTIFIER"); got != want {
			t.Errorf("SYSLOG_IDENTIFIER=%s, want %s", got, want)
		}
		c.ends()
	}
}

func TestJournalLines(t *testing.T) {
	c, j := runJournal(t, Options{})
	expect := func(want ...[3]string) {
		t.Helper()
		for _, w := range want {
			m := j.next()
			got := [3]string{field(m, "MESSAGE"), field(m, "PRIORITY"), field(m, "CONTAINER_PARTIAL_MESSAGE")}
			if got != w {
				t.Errorf("message, priority, partial are %.100q, want %.100q", got, w)
			}
		}
		if m := j.next(); m != nil {
			t.Errorf("a message too much: %q", m)
		}
	}
	c.says("one\ntwo\n")
	expect([3]string{"one\n", "6", "<none>"}, [3]string{"two\n", "6", "<none>"})
	c.says("be")
	expect() // kept until its line ends
	c.says("gun\n")
	expect([3]string{"begun\n", "6", "<none>"})
	c.says("<3>bad\n<8>no priority\n<3>\n<2")
	expect([3]string{"bad\n", "3", "<none>"}, [3]string{"<8>no priority\n", "6", "<none>"}, [3]string{"\n", "3", "<none>"})
	c.says(">worse\n")
	expect([3]string{"worse\n", "2", "<none>"})
	long := strings.Repeat("x", maxRecord)
	c.says(long + "<1>is no priority inside a line\n")
	expect([3]string{long, "6", "true"}, [3]string{"<1>is no priority inside a line\n", "6", "<none>"})
	c.says("a\x00b\n\n")
	expect([3]string{"a\x00b\n", "6", "<none>"}, [3]string{"\n", "6", "<none>"})
	c.says("no end")
	c.ends()
	expect([3]string{"no end", "6", "true"})
}

func TestJournalStderrAndNoPartial(t *testing.T) {
	c, j := runJournal(t, Options{NoPartialMessage: true})
	read, write := pipe(t)
	s := c.logs.Stream(Stderr, read, false)
	unix.Write(write, []byte("oh"))
	unix.Close(write)
	s.Drain()
	c.ends()
	m := j.next()
	if field(m, "MESSAGE") != "oh" || field(m, "PRIORITY") != "3" || field(m, "CONTAINER_PARTIAL_MESSAGE") != "<none>" {
		t.Errorf("message is %q", m)
	}
}

func TestJournalMessageLargerThanADatagram(t *testing.T) {
	label := "BIG=" + strings.Repeat("y", 9<<20)
	c, j := runJournal(t, Options{Labels: []string{label}})
	c.says("small\n")
	m := j.next()
	if field(m, "MESSAGE") != "small\n" || "BIG="+field(m, "BIG") != label {
		t.Errorf("message %q with a label of %d bytes", field(m, "MESSAGE"), len(field(m, "BIG")))
	}
	c.ends()
}

func TestJournalGoesOnAfterItsSupervisorDied(t *testing.T) {
	c, j := runJournal(t, Options{})
	c.says("one\ntw")
	c.logs.Close() // what a killed supervisor leaves, as far as it concerns the journal
	c.open()
	c.says("o\nthree\n")
	c.ends()
	if got, want := j.all(), []string{"one\n", "two\n", "three\n"}; !reflect.DeepEqual(got, want) {
		t.Errorf("the journal has %q, want %q", got, want)
	}
}

// A journald that is not there: the container goes on, there is one warning, and
// what was written meanwhile comes when it is there again.
func TestJournalThatIsDown(t *testing.T) {
	c, j := runJournal(t, Options{})
	c.says("before\n")
	if got := j.all(); len(got) != 1 {
		t.Fatalf("the journal has %q", got)
	}
	j.stop()
	for range 1000 {
		c.says("meanwhile\n")
	}
	if len(c.warnings) != 1 || !strings.Contains(c.warnings[0], "Connection refused") {
		t.Errorf("warnings are %q, want one about the refused connection", c.warnings)
	}
	j = startJournal(t, j.path)
	c.logs.tryAgain(lifecycle.Never)
	got := 0
	for rounds := 0; got < 1000 && rounds < 10000; rounds++ {
		got += len(j.all()) // its queue is shorter than that
		c.logs.tryAgain(lifecycle.Never)
	}
	if got != 1000 {
		t.Errorf("the journal has %d of the 1000 messages", got)
	}
	if last := c.warnings[len(c.warnings)-1]; len(c.warnings) != 2 || last != "The journal is written again" {
		t.Errorf("warnings are %q", c.warnings)
	}
	c.ends()
}

// A journald that lives but does not read holds a container up that writes too
// much, as with conmon, and only as long as it may still be alive.
func TestJournalThatIsSlow(t *testing.T) {
	lp, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	c, j := runJournal(t, Options{SpoolMax: 2 * batch, Loop: lp})
	line := strings.Repeat("z", 99) + "\n"
	said := 0
	for c.out.Readable() != Held {
		n, err := unix.Write(c.pipe, []byte(strings.Repeat(line, 100)))
		if err != nil {
			t.Fatal(err)
		}
		said += n
	}
	// It reads again.
	if err := c.out.Watch(lp.Stop); err != nil {
		t.Fatal(err)
	}
	heard := 0
	if err := lp.Add(j.fd, loop.Readable, loop.HandlerFunc(func(uint32) {
		for _, m := range j.all() {
			heard += len(m)
		}
		if heard == said && c.pipe >= 0 {
			unix.Close(c.pipe)
			c.pipe = -1
		}
	})); err != nil {
		t.Fatal(err)
	}
	if err := lp.Run(); err != nil {
		t.Fatal(err)
	}
	if heard != said || len(c.warnings) != 0 {
		t.Errorf("the journal has %d of %d bytes, warnings %q", heard, said, c.warnings)
	}
	// It never reads again: output is dropped instead.
	c.open()
	for c.out.Readable() != Held {
		if _, err := unix.Write(c.pipe, []byte(strings.Repeat(line, 100))); err != nil {
			t.Fatal(err)
		}
	}
	c.journal().flow.since -= lifecycle.Instant(patience)
	for range 10000 {
		if _, err := unix.Write(c.pipe, []byte(strings.Repeat(line, 100))); err != nil {
			t.Fatal(err)
		}
		if r := c.out.Readable(); r == Held {
			t.Fatal("the container is held up by a dead journald")
		}
	}
	if left := c.out.left(); left > 2*batch {
		t.Errorf("%d bytes are kept, want no more than %d", left, 2*batch)
	}
}

// A container that ends has its last words in the journal, even if journald does
// not take them as fast as they came.
func TestSlowJournaldAtTheEnd(t *testing.T) {
	lp, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	j := startJournal(t, t.TempDir()+"/socket")
	c := run(t, Options{Loop: lp, Targets: toJournal, ID: testID, JournalSocket: j.path})
	said := numbered(0, 3000) + "no end"
	c.says(said)
	unix.Close(c.pipe)
	var got []string
	for c.logs.Late() {
		got = append(got, j.all()...)
		c.journal().flow.writable(0) // as the loop tells it
	}
	c.logs.Finish()
	c.logs.Close()
	if got = append(got, j.all()...); strings.Join(got, "") != said {
		t.Errorf("the journal has %d messages of 3001", len(got))
	}
	if len(c.warnings) > 0 {
		t.Errorf("warnings are %q", c.warnings)
	}
}

// One that takes nothing at all is not waited for longer than when the container ran.
func TestStuckJournaldAtTheEnd(t *testing.T) {
	lp, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	j := startJournal(t, t.TempDir()+"/socket")
	c := run(t, Options{Loop: lp, Targets: toJournal, ID: testID, JournalSocket: j.path})
	c.says(numbered(0, 3000))
	if !c.logs.Late() {
		t.Error("it is not waited for")
	}
	c.journal().flow.since = 1 // patience is over
	if c.logs.Late() {
		t.Error("it is waited for although it has not moved")
	}
	unix.Close(c.pipe)
	c.logs.Finish()
	if c.logs.Owed() == 0 {
		t.Error("nothing is said to be left")
	}
	c.logs.Close()
}

// A journald that has gone a moment before the container ends has its last words
// when it is back, whatever the intervals were by then.
func TestJournaldIsRestartedAtTheEnd(t *testing.T) {
	c, j := runJournal(t, Options{})
	c.says("before\n")
	j.all()
	j.stop()
	said := numbered(0, 200)
	c.says(said)
	c.journal().trouble.pause = lastPause
	c.journal().failed(unix.ECONNREFUSED)
	unix.Close(c.pipe)
	if !c.logs.Late() {
		t.Fatal("it is not waited for")
	}
	if wait := c.logs.Due() - loop.Now(); wait > lifecycle.Instant(firstPause) {
		t.Errorf("it is looked for again in %d ms", int64(wait)/1e6)
	}
	j = startJournal(t, j.path)
	var got []string
	for c.logs.Late() {
		got = append(got, j.all()...)
		c.logs.tryAgain(lifecycle.Never)
	}
	c.logs.Finish()
	c.logs.Close()
	if got = append(got, j.all()...); strings.Join(got, "") != said {
		t.Errorf("the journal has %d messages of 200", len(got))
	}
}

// One that does not come back is waited for no longer than it takes to start one;
// and where there has never been one nobody waits, or is told before there is
// something to say.
func TestNoJournaldAtTheEnd(t *testing.T) {
	c, j := runJournal(t, Options{})
	c.says("before\n")
	j.stop()
	c.says("after\n")
	c.journal().down = 1
	if c.logs.Late() {
		t.Error("it is waited for although it has not come back")
	}
	c.ends()

	c = run(t, Options{Targets: toJournal, ID: testID, JournalSocket: t.TempDir() + "/none"})
	if len(c.warnings) != 0 {
		t.Errorf("warnings are %q before anything was said", c.warnings)
	}
	c.says("hello\n")
	if c.logs.Late() {
		t.Error("a journald is waited for that has never been there")
	}
	if len(c.warnings) != 1 {
		t.Errorf("warnings are %q, want one", c.warnings)
	}
	c.ends()
}
