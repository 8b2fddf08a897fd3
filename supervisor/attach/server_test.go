package attach

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOutputReachesEveryClient(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{})
	var peers []*peer
	for range 20 {
		peers = append(peers, r.attach(s))
	}
	out, errs := pattern(3*MaxData+17), []byte("an error\n")
	s.Output(Stdout, out)
	s.Output(Stderr, errs)
	s.Output(Stdout, nil)
	for _, p := range peers {
		p.readAll()
		same(t, "stdout", p.out.Bytes(), out)
		same(t, "stderr", p.err.Bytes(), errs)
		if p.packets != 5 {
			t.Errorf("%d packets, want 5", p.packets)
		}
	}
	late := r.attach(s)
	s.Output(Stdout, []byte("more"))
	late.readAll()
	same(t, "stdout of the late client", late.out.Bytes(), []byte("more"))
}

func TestInputReachesTheContainer(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  Config
		ends bool // when a client ends its input
	}{
		{"stdin", Config{Stdin: true}, true},
		{"left open", Config{Stdin: true, LeaveStdinOpen: true}, false},
		{"terminal", Config{Terminal: true}, false},
		{"terminal of an exec", Config{Terminal: true, Stdin: true}, true},
	} {
		for name, hangUp := range map[string]func(p *peer){
			"shutdown":     func(p *peer) { unix.Shutdown(p.fd, unix.SHUT_WR) },
			"empty packet": func(p *peer) { unix.Send(p.fd, nil, 0) },
			"close":        func(p *peer) { p.close() },
		} {
			t.Run(test.name+" "+name, func(t *testing.T) {
				r := newRig(t)
				s := r.listen(test.cfg)
				stdin := r.stdin(s)
				p, other := r.attach(s), r.attach(s)
				p.send("one ")
				p.send("two ")
				r.turns()
				other.send("three ")
				r.turns()
				p.send("four")
				hangUp(p)
				r.turns()
				var got bytes.Buffer
				if ends := drain(t, stdin, &got); ends != test.ends {
					t.Errorf("the container's stdin has ended: %v, want %v", ends, test.ends)
				}
				if got.String() != "one two three four" {
					t.Errorf("the container read %q", &got)
				}
				s.Output(Stdout, []byte("output"))
				other.readAll()
				if other.out.String() != "output" {
					t.Errorf("the other client read %q", &other.out)
				}
				if !p.closed {
					p.readAll()
					if p.out.String() != "output" {
						t.Errorf("a client without further input read %q", &p.out)
					}
				} else if s.Clients() != 1 {
					t.Errorf("%d clients are left", s.Clients())
				}
				quiet(t, r)
			})
		}
	}
}

// quiet: nothing is ready; a handler that is told of the same thing for ever
// would keep the supervisor busy.
func quiet(t *testing.T, r *rig) {
	t.Helper()
	r.turns()
	for i := range 3 {
		if n := ready(r); n != 0 {
			t.Errorf("turn %d: %d descriptors are ready and stay so", i, n)
		}
		r.turn()
	}
}

// ready: an epoll set is itself readable while one of its descriptors is ready.
func ready(r *rig) int {
	fds := []unix.PollFd{{Fd: int32(r.epoll), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func TestNoStdin(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{})
	p := r.attach(s)
	p.send("nobody reads this")
	unix.Shutdown(p.fd, unix.SHUT_WR)
	quiet(t, r)
	s.Output(Stdout, []byte("output"))
	p.readAll()
	if p.out.String() != "output" {
		t.Errorf("read %q", &p.out)
	}
	p.close()
	r.until("the client is gone", func() bool { return s.Clients() == 0 })
}

// A client may be there, and even gone again, before the terminal.
func TestInputBeforeTheTerminal(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{Terminal: true})
	stays, goes := r.attach(s), r.attach(s)
	stays.send("first ")
	r.turns()
	goes.send("second")
	goes.close()
	quiet(t, r)
	stdin := r.stdin(s)
	r.turns()
	var got bytes.Buffer
	drain(t, stdin, &got)
	if !strings.Contains(got.String(), "first ") || !strings.Contains(got.String(), "second") {
		t.Errorf("the container read %q", &got)
	}
	if s.Clients() != 1 {
		t.Errorf("%d clients are left", s.Clients())
	}
}

// The container reads slowly: its clients have to wait, and lose nothing.
func TestSlowContainer(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{Stdin: true})
	stdin := r.stdin(s)
	p := r.attach(s)
	data := pattern(1 << 20)
	var got bytes.Buffer
	ended, rest := false, data
	r.until("all input has arrived", func() bool {
		for len(rest) > 0 {
			n := min(len(rest), maxInput)
			err := unix.Send(p.fd, rest[:n], unix.MSG_NOSIGNAL)
			if err == unix.EAGAIN {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if rest = rest[n:]; len(rest) == 0 {
				p.close() // with input still on its way
			}
		}
		var buf [1000]byte
		n, err := unix.Read(stdin, buf[:])
		if err == nil {
			got.Write(buf[:n])
			ended = n == 0
		}
		return ended
	})
	same(t, "stdin", got.Bytes(), data)
	if s.Clients() != 0 {
		t.Errorf("%d clients are left", s.Clients())
	}
}

// Clients have input when the container has room for none of it.
func TestSlowContainerManyClients(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{Stdin: true, LeaveStdinOpen: true})
	stdin := r.stdin(s)
	data := pattern(maxInput)
	want := 0
	for range 5 {
		p := r.attach(s)
		for range 4 {
			p.send(string(data))
			want += len(data)
		}
	}
	r.turns()
	var got bytes.Buffer
	r.until("all input has arrived", func() bool { drain(t, stdin, &got); return got.Len() >= want })
	// Packets stay whole, whoever they are of.
	same(t, "stdin", got.Bytes(), bytes.Repeat(data, 20))
	quiet(t, r)
}

func TestContainerClosedItsStdin(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{Stdin: true})
	read, write := r.pipe()
	s.SetStdin(write)
	p := r.attach(s)
	unix.Close(read)
	p.send("nobody reads this")
	r.turns()
	p.send("nor this")
	quiet(t, r)
	s.Output(Stdout, []byte("output"))
	p.readAll()
	if p.out.String() != "output" {
		t.Errorf("read %q", &p.out)
	}
	// SetStdin after the end: the descriptor must not stay open.
	read, write = r.pipe()
	s.SetStdin(write)
	if !drain(t, read, new(bytes.Buffer)) {
		t.Error("stdin was opened again")
	}
}

// Input larger than conmon takes is not dropped in silence.
func TestTooMuchInputAtOnce(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{Stdin: true})
	stdin := r.stdin(s)
	p := r.attach(s)
	data := pattern(maxInput + 1)
	p.send(string(data))
	r.turns()
	var got bytes.Buffer
	drain(t, stdin, &got)
	same(t, "stdin", got.Bytes(), data[:maxInput])
	if !r.warned("32769 bytes at once") {
		t.Errorf("warned of %q", r.warnings)
	}
}

// A client that came after the start and does not read is cut off at the limit.
// Whoever else is there has everything, and the server never waits.
func TestSlowWatcher(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		r := newRig(t)
		s := r.listen(Config{Limit: 100_000, Terminal: terminal, Stdin: true})
		stdin := r.stdin(s)
		s.Started()
		slow, fast := r.attach(s), r.attach(s)
		data := pattern(3 << 20)
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 10_000)
			s.Output(Stdout, rest[:n])
			rest = rest[n:]
			fast.readAll()
			if s.Full() {
				t.Fatal("a watcher sets the pace")
			}
		}
		same(t, "stdout of the fast client", fast.out.Bytes(), data)

		// The slow one wakes up: everything up to the cut, the notice, the end.
		r.readEnd(slow)
		got, notice := slow.out.String(), slow.err.String()
		if terminal {
			at := strings.LastIndex(got, "gracemon: ")
			if at < 0 {
				t.Fatal("no notice")
			}
			got, notice = got[:at], got[at:]
		}
		same(t, "stdout of the slow client", []byte(got), data[:len(got)])
		want := "gracemon: this client reads too slowly and is cut off: " + strconv.Itoa(len(data)-len(got)) + " bytes of output are missing here\n"
		if terminal {
			want = strings.Replace(want, "\n", "\r\n", 1)
		}
		if notice != want {
			t.Errorf("notice %q, want %q", notice, want)
		}
		if len(got) < 100_000 || len(got) > 1<<20 {
			t.Errorf("%d bytes were kept", len(got))
		}
		// Its input goes on until it leaves.
		slow.send("input")
		r.turns()
		var in bytes.Buffer
		if drain(t, stdin, &in) || in.String() != "input" {
			t.Errorf("the container read %q, or its end", &in)
		}
		quiet(t, r)
	}
}

// A client that was there before the start gets every byte, and sets the pace.
func TestSlowClientInFront(t *testing.T) {
	r := newRig(t)
	room := 0
	s := r.listen(Config{Limit: 64 << 10, Room: func() { room++ }})
	p := r.attach(s)
	s.Started()
	data := pattern(4 << 20)
	rest := data
	r.until("all output has arrived", func() bool {
		for len(rest) > 0 && !s.Full() {
			n := min(len(rest), 10_000)
			s.Output(Stdout, rest[:n])
			rest = rest[n:]
		}
		if s.clients[0].size > 80<<10 {
			t.Fatalf("%d bytes are kept for it", s.clients[0].size)
		}
		for range 10 {
			p.read()
		}
		return p.out.Len() == len(data)
	})
	same(t, "stdout", p.out.Bytes(), data)
	if room == 0 {
		t.Error("nobody was told that there was room again")
	}
	if s.Full() {
		t.Error("still full")
	}
}

// Whoever comes after the first output watches, though nobody said Started.
func TestFirstOutputMeansStarted(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{Limit: 1000})
	s.Output(Stdout, []byte("x"))
	p := r.attach(s)
	for range 100 {
		s.Output(Stdout, pattern(MaxData))
	}
	if s.Full() {
		t.Error("sets the pace")
	}
	r.readEnd(p)
}

// When the client in front goes, nobody has to wait for it any more.
func TestClientInFrontLeavesWhileFull(t *testing.T) {
	r := newRig(t)
	room := 0
	s := r.listen(Config{Limit: 1000, Room: func() { room++ }})
	p, q := r.attach(s), r.attach(s)
	for !s.Full() {
		s.Output(Stdout, pattern(10_000))
	}
	p.close()
	r.turns()
	if !s.Full() || room != 0 {
		t.Errorf("full %v, room %d: the other one is still behind", s.Full(), room)
	}
	q.close()
	r.turns()
	if s.Full() || room != 1 {
		t.Errorf("full %v, room %d", s.Full(), room)
	}
	if s.Clients() != 0 {
		t.Errorf("%d clients are left", s.Clients())
	}
}

// Many small writes of both streams: the memory for them is bounded by the limit
// too.
func TestSmallWritesToASlowClient(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{Limit: 50_000})
	p := r.attach(s)
	var out, errs []byte
	for i := 0; !s.Full(); i++ {
		s.Output(Stdout, []byte{'a' + byte(i%26)})
		s.Output(Stderr, []byte{'A' + byte(i%26)})
		out, errs = append(out, 'a'+byte(i%26)), append(errs, 'A'+byte(i%26))
	}
	blocks := 0
	for b := s.clients[0].first; b != nil; b = b.next {
		blocks++
	}
	if blocks > 50_000/8192+2 {
		t.Errorf("%d blocks for 50000 bytes", blocks)
	}
	s.Finish(func() {})
	r.readEnd(p)
	same(t, "stdout", p.out.Bytes(), out)
	same(t, "stderr", p.err.Bytes(), errs)
}

func TestFinish(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{Stdin: true})
	r.stdin(s)
	slow, fast, gone := r.attach(s), r.attach(s), r.attach(s)
	data := pattern(600_000)
	s.Output(Stdout, data)
	gone.close()
	// What it sent is not read any more, and must not turn the end of the output
	// into an error.
	slow.send("input")
	done := 0
	s.Finish(func() { done++ })
	if _, err := os.Lstat(s.sock.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	r.readEnd(fast)
	same(t, "stdout of the fast client", fast.out.Bytes(), data)
	r.turns()
	if done != 0 {
		t.Error("done while a client has not everything yet")
	}
	slow.send("more input")
	r.readEnd(slow)
	same(t, "stdout of the slow client", slow.out.Bytes(), data)
	if done != 1 || s.Clients() != 0 {
		t.Errorf("done %d times, %d clients", done, s.Clients())
	}
	s.Close()
	if done != 1 {
		t.Error("done again")
	}

	s = newRig(t).listen(Config{})
	s.Finish(func() { done++ })
	if done != 2 {
		t.Error("not done at once without clients")
	}
}

func TestCloseWithASlowClient(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{})
	before := openFDs(t)
	p := r.attach(s)
	s.Output(Stdout, pattern(600_000))
	s.Finish(func() { t.Error("done") })
	s.Close()
	if !r.warned("has not read") {
		t.Errorf("warned of %q", r.warnings)
	}
	p.close()
	if n := openFDs(t); n != before-2 { // the socket and its directory
		t.Errorf("%d descriptors are open, want %d", n, before-2)
	}
}

func TestPlaces(t *testing.T) {
	r := newRig(t)
	long := filepath.Join(r.dir, strings.Repeat("d", 200))
	sockets := filepath.Join(r.dir, "sockets")
	for _, dir := range []string{long, sockets} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	uuid := strings.Repeat("u", 64)
	// Exactly as long as an address: the link is one shorter.
	tight := strings.Repeat("t", maxAddress-len(sockets)-1)
	for _, test := range []struct {
		place      Place
		path, link string
	}{
		{Place{Bundle: long, FullAttach: true, SocketDir: "/nonexistent", UUID: uuid}, long + "/attach", ""},
		{Place{Bundle: long, SocketDir: sockets, UUID: uuid}, sockets + "/" + uuid + "/attach", sockets + "/" + uuid},
		{Place{Bundle: long, SocketDir: sockets, UUID: tight}, sockets + "/" + tight[:len(tight)-1] + "/attach", sockets + "/" + tight[:len(tight)-1]},
	} {
		var s *Server
		// Again and again, as a successor does after a crash.
		for range 3 {
			var err error
			if s, err = Listen(r.loop, Config{Place: test.place}); err != nil {
				t.Fatal(err)
			}
			info, err := os.Lstat(long + "/attach")
			if err != nil || info.Mode() != os.ModeSocket|0o700 {
				t.Fatalf("%+v: %v %v", test.place, info, err)
			}
			p := r.dial(test.path)
			r.until("accepted", func() bool { return s.Clients() == 1 })
			p.close()
			if test.link != "" {
				if to, err := os.Readlink(test.link); to != long {
					t.Errorf("link to %q: %v", to, err)
				}
			}
		}
		s.Close()
		for _, path := range []string{long + "/attach", test.link} {
			if _, err := os.Lstat(path); path != "" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", path, err)
			}
		}
	}
	// CRI-O dials the path through the link as it is.
	s, err := Listen(r.loop, Config{Place: Place{Bundle: long, SocketDir: sockets, UUID: uuid[:32]}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: sockets + "/" + uuid[:32] + "/attach", Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	s.Close()

	before := openFDs(t)
	for _, test := range []struct {
		place Place
		want  string
	}{
		{Place{Bundle: "/nonexistent", FullAttach: true}, "failed to open socket path parent dir /nonexistent: no such file or directory"},
		{Place{Bundle: long, SocketDir: "/nonexistent", UUID: "u"}, "Failed to create symlink for attach socket /nonexistent/u: no such file or directory"},
	} {
		if _, err := Listen(r.loop, Config{Place: test.place}); err == nil || err.Error() != test.want {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
	if n := openFDs(t); n != before {
		t.Errorf("%d descriptors leak", n-before)
	}
}

// Without descriptors for them clients wait, and the supervisor does not spin.
func TestOutOfDescriptors(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{})
	p := r.dial(s.sock.path)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	r.turns()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if s.Clients() != 0 || len(r.warnings) != 1 || !r.warned("too many open files") {
		t.Errorf("%d clients, warned of %q", s.Clients(), r.warnings)
	}
	r.until("accepted after all", func() bool { return s.Clients() == 1 })
	s.Output(Stdout, []byte("output"))
	p.readAll()
	if p.out.String() != "output" {
		t.Errorf("read %q", &p.out)
	}
}

// Clients that come, misbehave and go at random moments; one that behaves sees
// everything.
func TestComingAndGoing(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{Limit: 30_000, Stdin: true, LeaveStdinOpen: true})
	stdin := r.stdin(s)
	s.Started()
	before := openFDs(t)
	good := r.attach(s)
	var want []byte
	var others []*peer
	for i := range 2000 {
		switch i % 7 {
		case 0:
			others = append(others, r.dial(s.sock.path))
		case 2:
			if len(others) > 5 {
				others[i%5].close()
				others = append(others[:i%5], others[i%5+1:]...)
			}
		case 3:
			for _, p := range others {
				_ = unix.Send(p.fd, pattern(i%3000), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			}
		case 4:
			unix.Shutdown(others[len(others)-1].fd, i%3)
		case 5:
			var waste [100]byte // less than a packet
			_, _ = receive(others[0].fd, waste[:])
		}
		data := pattern(i)
		s.Output(Stream(2+i%2), data)
		if i%2 == 0 {
			want = append(want, data...)
		}
		r.turn()
		good.readAll()
		drain(t, stdin, new(bytes.Buffer))
	}
	same(t, "stdout", good.out.Bytes(), want)
	for _, p := range append(others, good) {
		p.close()
	}
	r.until("all are gone", func() bool { return s.Clients() == 0 })
	if n := openFDs(t); n != before {
		t.Errorf("%d descriptors are open, %d before", n, before)
	}
}

// Forwarding makes no garbage, whether the client keeps up or not.
func TestNoGarbage(t *testing.T) {
	r := newRig(t)
	s := r.listen(Config{Limit: 200_000})
	p := r.attach(s)
	data := pattern(MaxData)
	var waste [MaxData + 1]byte
	take := func(n int) {
		for range n {
			if _, err := receive(p.fd, waste[:]); err != nil {
				return
			}
		}
	}
	check := func(what string, f func()) {
		t.Helper()
		for range 100 {
			f() // until maps and lists have grown
		}
		if n := testing.AllocsPerRun(1000, f); n > 0 {
			t.Errorf("%s: %.2f allocations", what, n)
		}
	}
	check("a client that keeps up", func() { s.Output(Stdout, data); take(1) })
	for !s.Full() {
		s.Output(Stdout, data)
	}
	check("a client that is behind", func() {
		take(1)
		for !s.clients[0].empty() && s.clients[0].size > 150_000 {
			s.clients[0].flush()
			take(1)
		}
		s.Output(Stdout, data)
	})
	p.close()
	r.turns()
	check("no client", func() { s.Output(Stdout, data) })
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		switch p {
		case "fmt", "os", "net", "regexp":
			t.Errorf("imports %s", p)
		}
	}
}

// What a queue gives is what it was given, in packets that clients have room
// for, whatever was added and taken in between.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{0, 10, 1, 200, 255, 0, 7, 255, 1, 3})
	f.Add(bytes.Repeat([]byte{0, 250, 1, 250}, 100))
	f.Fuzz(func(t *testing.T, ops []byte) {
		var s Server
		var q queue
		var want, got [2][]byte
		pop := func() {
			p := q.packet()
			if len(p) < 2 || len(p) > MaxData+1 || p[0] != byte(Stdout) && p[0] != byte(Stderr) {
				t.Fatalf("packet of %d bytes begins with %d", len(p), p[0])
			}
			got[p[0]-2] = append(got[p[0]-2], p[1:]...)
			q.pop(&s)
		}
		for i, op := range ops {
			if op == 255 {
				if !q.empty() {
					pop()
				}
				continue
			}
			data := bytes.Repeat([]byte{byte(i)}, int(op)*int(op))
			stream := i % 2
			want[stream] = append(want[stream], data...)
			q.push(&s, Stream(2+stream), data)
		}
		for !q.empty() {
			pop()
		}
		if q.size != 0 || q.last != nil {
			t.Errorf("an empty queue has %d bytes", q.size)
		}
		for i := range want {
			same(t, "stream", got[i], want[i])
		}
	})
}

// Whatever a client sends reaches the container's stdin, and nothing else happens.
func FuzzInput(f *testing.F) {
	f.Add([]byte("input"), []byte("more"), true)
	f.Add([]byte{}, []byte{2, 0, 255}, false)
	f.Fuzz(func(t *testing.T, first, second []byte, leave bool) {
		r := newRig(t)
		s := r.listen(Config{Stdin: true, LeaveStdinOpen: leave})
		stdin := r.stdin(s)
		p := r.attach(s)
		var want, got bytes.Buffer
		ended := false
		for _, data := range [][]byte{first, second} {
			if len(data) > 60_000 {
				data = data[:60_000]
			}
			_ = unix.Send(p.fd, data, unix.MSG_NOSIGNAL)
			if ended = ended || len(data) == 0; !ended {
				want.Write(data[:min(len(data), maxInput)])
			}
			r.turns()
			if closed := drain(t, stdin, &got); closed != (ended && !leave) {
				t.Errorf("stdin closed: %v", closed)
			}
		}
		same(t, "stdin", got.Bytes(), want.Bytes())
		s.Close()
	})
}
