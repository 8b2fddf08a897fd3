package recovery

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"gracerun.io/signals"
	"gracerun.io/signals/process"
	"gracerun.io/supervisor/lifecycle"
)

// NotesName is the name of the file in the state directory.
const NotesName = "notes"

// notesMagic names the layout of page. Another layout needs another magic, since
// a container may outlive the supervisor that wrote it.
const notesMagic = 0x3145544f4e524721 // "!GRNOTE1"

const pageSize = 4096

// Stage says how far the making of the container has come.
type Stage uint64

// The stages.
const (
	Nothing Stage = iota // the runtime was not started
	Making               // it was: there may be half a container
	Made                 // init exists and is known
)

// page is the content of the file, in the byte order of the machine: it never
// leaves it. Every word is written whole, so that none is ever torn.
type page struct {
	magic      uint64
	generation uint64
	stage      uint64
	init       [3]uint64 // number, start time, inode
	unexecuted [2]uint64 // not 0: init had executed no program when the create had ended
	keep       uint64
	timeout    uint64 // an instant; 0: none
	timedOut   uint64

	exit       uint64 // 1: known, 2: looked for and not known; above that kind and value
	outputDone uint64

	commandAt    uint64 // an instant
	command      uint64 // 1: somebody runs the exit command, or has
	commandOwner [3]uint64

	starter        [3]uint64
	starterRequest uint64

	nextDelivery uint64
	deliveries   [deliveries]delivery
	nextCaller   uint64
	callers      [callers]caller

	cgroupV1  uint64
	cgroupLen uint64
	cgroup    [1024]byte

	asleep     uint64 // since that instant; 0: it is awake
	patience   uint64 // how long it is to be idle before it sleeps; 0: the usual time
	sleepsLost uint64 // how many have died in their sleep

	// The boots of init, commandOwner and starter: zero in what an older version has
	// written.
	initBoot, ownerBoot, starterBoot [2]uint64

	pipes [3]uint64 // inodes of stdin, stdout, stderr; 0: see Pipe

	stepping uint64 // 1: the supervisor is about to step its machine, or to do what that asked for
	beside   uint64 // 1: somebody steps a fork of its journal, since it does not answer

	supervisor     [3]uint64
	supervisorBoot [2]uint64
	numberedIn     uint64 // the pid namespace of supervisor
}

// How many of each are remembered.
const (
	deliveries = 16 // more than can be under way: they are answered in the turn that sends them
	callers    = 32
)

type delivery struct{ state, request, signal, errno uint64 }

type caller struct{ request, pid, what, outcome, status, errno uint64 }

// Compiles only if a page has room for it all.
const _ = pageSize - unsafe.Sizeof(page{})

// ErrNotes: the file does not hold what a supervisor writes.
var ErrNotes = errors.New("notes of the supervisor are damaged")

// Notes are a supervisor's notes to its successor. A nil *Notes takes them and
// knows nothing: where there is no state directory there is no successor.
type Notes struct {
	p  *page
	fd int
}

// CreateNotes makes the notes of a new container.
func CreateNotes(dir int) (*Notes, error) {
	fd, err := openat(dir, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, err
	}
	// Written, not extended: on a full tmpfs this is an error, where a store to
	// the mapping would be a SIGBUS.
	empty := page{magic: notesMagic}
	if _, err = unix.Pwrite(fd, unsafe.Slice((*byte)(unsafe.Pointer(&empty)), unsafe.Sizeof(empty)), 0); err == nil {
		_, err = unix.Pwrite(fd, []byte{0}, pageSize-1)
	}
	if err != nil {
		unix.Close(fd)
		_ = unix.Unlinkat(dir, NotesName, 0)
		return nil, err
	}
	return use(fd)
}

// OpenNotes opens the notes that a supervisor has left. The error is ErrNotes or
// a unix.Errno.
func OpenNotes(dir int) (*Notes, error) {
	fd, err := openat(dir, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return use(fd)
}

// UseNotes takes the notes from a descriptor of the file, which becomes its own.
func UseNotes(fd int) (*Notes, error) { return use(fd) }

func use(fd int) (*Notes, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil && st.Size != pageSize {
		err = ErrNotes
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	mem, err := unix.Mmap(fd, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	n := &Notes{(*page)(unsafe.Pointer(&mem[0])), fd}
	if n.p.magic != notesMagic || n.p.cgroupLen > uint64(len(n.p.cgroup)) {
		n.Close()
		return nil, ErrNotes
	}
	return n, nil
}

func openat(dir, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, NotesName, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// FD is a descriptor of the file, -1 for nil. It is good even when the file has
// been removed.
func (n *Notes) FD() int {
	if n == nil {
		return -1
	}
	return n.fd
}

// Close gives the page back. The file stays.
func (n *Notes) Close() {
	if n == nil {
		return
	}
	_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(n.p)), pageSize))
	unix.Close(n.fd)
	n.p, n.fd = nil, -1
}

func (n *Notes) set(word func(*page) *uint64, value uint64) {
	if n != nil {
		atomic.StoreUint64(word(n.p), value)
	}
}

func (n *Notes) get(word func(*page) *uint64) uint64 {
	if n == nil {
		return 0
	}
	return atomic.LoadUint64(word(n.p))
}

func bit(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}

// NextGeneration counts those who have gone on with the container.
func (n *Notes) NextGeneration() {
	n.set(func(p *page) *uint64 { return &p.generation }, n.Generation()+1)
}

// Generation is how many supervisors the container has lost, or upgrades it has seen.
func (n *Notes) Generation() uint64 { return n.get(func(p *page) *uint64 { return &p.generation }) }

// SetSupervisor notes who looks after the container, and the inode of the pid namespace
// in which he has his number.
func (n *Notes) SetSupervisor(id process.Identity, namespace uint64) {
	if n == nil {
		return
	}
	atomic.StoreUint64(&n.p.numberedIn, namespace)
	putIdentity(&n.p.supervisor, &n.p.supervisorBoot, id)
}

// Supervisor is who looks after the container, or did when he died; the zero value
// if that was not noted.
func (n *Notes) Supervisor() (id process.Identity, namespace uint64) {
	if n == nil {
		return process.Identity{}, 0
	}
	return getIdentity(&n.p.supervisor, &n.p.supervisorBoot), atomic.LoadUint64(&n.p.numberedIn)
}

// --- its sleep

// SetAsleep notes since when the supervisor sleeps, 0 that it is awake.
func (n *Notes) SetAsleep(since lifecycle.Instant) {
	n.set(func(p *page) *uint64 { return &p.asleep }, uint64(since))
}

// Asleep is since when it has slept, 0 if it did not.
func (n *Notes) Asleep() lifecycle.Instant {
	return lifecycle.Instant(n.get(func(p *page) *uint64 { return &p.asleep }))
}

// SetPatience notes how long the supervisor is to be idle before it sleeps; 0: as
// long as usual.
func (n *Notes) SetPatience(d lifecycle.Duration) {
	n.set(func(p *page) *uint64 { return &p.patience }, uint64(d))
}

// Patience is how long it is to be idle, 0 for as long as usual.
func (n *Notes) Patience() lifecycle.Duration {
	return lifecycle.Duration(n.get(func(p *page) *uint64 { return &p.patience }))
}

// LoseSleep counts one that has died in its sleep, or as it woke.
func (n *Notes) LoseSleep() {
	n.set(func(p *page) *uint64 { return &p.sleepsLost }, n.SleepsLost()+1)
}

// SleepsLost is how many have.
func (n *Notes) SleepsLost() uint64 { return n.get(func(p *page) *uint64 { return &p.sleepsLost }) }

// --- one that does not answer

// SetStepping notes that the supervisor begins to step its machine, or has ended.
// Who finds that it does not, after SetBeside(true), knows that it will see that
// before it steps its machine again: both are stores and loads in one order
// (sync/atomic).
func (n *Notes) SetStepping(on bool) {
	n.set(func(p *page) *uint64 { return &p.stepping }, bit(on))
}

// Stepping tells whether it does.
func (n *Notes) Stepping() bool { return n.get(func(p *page) *uint64 { return &p.stepping }) != 0 }

// SetBeside notes that somebody else steps a fork of the supervisor's journal
// (journal.Fork), or that the supervisor has joined it.
func (n *Notes) SetBeside(on bool) { n.set(func(p *page) *uint64 { return &p.beside }, bit(on)) }

// Beside tells whether somebody does, or has.
func (n *Notes) Beside() bool { return n.get(func(p *page) *uint64 { return &p.beside }) != 0 }

// --- the container

// SetStage notes how far the making of the container has come.
func (n *Notes) SetStage(s Stage) { n.set(func(p *page) *uint64 { return &p.stage }, uint64(s)) }

// Stage is how far the making of the container has come.
func (n *Notes) Stage() Stage { return Stage(n.get(func(p *page) *uint64 { return &p.stage })) }

// SetInit notes who init is, and whether it has executed a program already.
func (n *Notes) SetInit(id process.Identity, executed bool) {
	if n == nil {
		return
	}
	putIdentity(&n.p.init, &n.p.initBoot, id)
	n.p.unexecuted[0] = 1
	if executed {
		n.p.unexecuted = [2]uint64{}
	}
}

// Init is who init is: the zero value if there is none.
func (n *Notes) Init() (id process.Identity, executed bool) {
	if n == nil {
		return process.Identity{}, false
	}
	return getIdentity(&n.p.init, &n.p.initBoot), n.p.unexecuted == [2]uint64{} // another version notes a file here
}

func putIdentity(words *[3]uint64, boot *[2]uint64, id process.Identity) {
	atomic.StoreUint64(&words[0], 0)
	for i := range boot {
		atomic.StoreUint64(&boot[i], binary.NativeEndian.Uint64(id.Boot[8*i:]))
	}
	atomic.StoreUint64(&words[1], id.StartTime)
	atomic.StoreUint64(&words[2], id.PidfdInode)
	atomic.StoreUint64(&words[0], uint64(id.Pid)) // last: without it there is none
}

func getIdentity(words *[3]uint64, boot *[2]uint64) process.Identity {
	pid := atomic.LoadUint64(&words[0])
	if pid == 0 {
		return process.Identity{}
	}
	id := process.Identity{Pid: int(pid), StartTime: words[1], PidfdInode: words[2]}
	for i := range boot {
		binary.NativeEndian.PutUint64(id.Boot[8*i:], boot[i])
	}
	return id
}

// --- its stdin (0), stdout (1) and stderr (2)

// pipeEnded is no pipe's inode.
const pipeEnded = ^uint64(0)

// SetPipe notes which pipe a stream is.
func (n *Notes) SetPipe(i int, inode uint64) {
	n.set(func(p *page) *uint64 { return &p.pipes[i] }, inode)
}

// EndPipe notes that nothing will come through it any more.
func (n *Notes) EndPipe(i int) { n.SetPipe(i, pipeEnded) }

// Pipe is the inode of the pipe that a stream is, and whether it has ended instead.
// Neither was noted of a stream that is none, nor by an older gracemon, whose streams
// were named pipes in the state directory.
func (n *Notes) Pipe(i int) (inode uint64, ended bool) {
	inode = n.get(func(p *page) *uint64 { return &p.pipes[i] })
	if inode == pipeEnded {
		return 0, true
	}
	return inode, false
}

// SetCgroup notes the container's own cgroup. One whose path is longer than what
// there is room for is not noted: it is found again by init.
func (n *Notes) SetCgroup(dir string, v1 bool) {
	if n == nil || len(dir) > len(n.p.cgroup) {
		return
	}
	copy(n.p.cgroup[:], dir)
	n.p.cgroupV1 = bit(v1)
	atomic.StoreUint64(&n.p.cgroupLen, uint64(len(dir)))
}

// Cgroup is the container's own cgroup, "" if none was noted.
func (n *Notes) Cgroup() (dir string, v1 bool) {
	if n == nil {
		return "", false
	}
	return string(n.p.cgroup[:n.p.cgroupLen]), n.p.cgroupV1 != 0
}

// SetKeep notes that the state directory is the runtime's to remove, or is not.
func (n *Notes) SetKeep(keep bool) { n.set(func(p *page) *uint64 { return &p.keep }, bit(keep)) }

// Keep tells whether it is.
func (n *Notes) Keep() bool { return n.get(func(p *page) *uint64 { return &p.keep }) != 0 }

// SetTimeout notes when the container's time is up; 0 for never.
func (n *Notes) SetTimeout(at lifecycle.Instant) {
	n.set(func(p *page) *uint64 { return &p.timeout }, uint64(at))
}

// Timeout is when the container's time is up; 0 for never.
func (n *Notes) Timeout() lifecycle.Instant {
	return lifecycle.Instant(n.get(func(p *page) *uint64 { return &p.timeout }))
}

// SetTimedOut notes that it was killed for that.
func (n *Notes) SetTimedOut() { n.set(func(p *page) *uint64 { return &p.timedOut }, 1) }

// TimedOut tells whether it was.
func (n *Notes) TimedOut() bool { return n.get(func(p *page) *uint64 { return &p.timedOut }) != 0 }

// --- its end

const (
	exitKnown   = 1
	exitUnknown = 2
)

// SetExit notes how init ended, before it is reaped: after that the kernel may
// tell nobody.
func (n *Notes) SetExit(s lifecycle.Status) {
	word := uint64(exitKnown)
	if s.Kind == lifecycle.StatusUnknown {
		word = exitUnknown
	}
	n.set(func(p *page) *uint64 { return &p.exit }, word|uint64(s.Kind)<<8|uint64(s.Value)<<16)
}

// Exit is how init ended. seen says whether its end was seen at all.
func (n *Notes) Exit() (s lifecycle.Status, seen bool) {
	word := n.get(func(p *page) *uint64 { return &p.exit })
	if word&0xff == 0 {
		return s, false
	}
	return lifecycle.Status{Kind: lifecycle.StatusKind(word >> 8), Value: uint8(word >> 16)}, true
}

// SetOutputDone notes that the log is complete.
func (n *Notes) SetOutputDone() { n.set(func(p *page) *uint64 { return &p.outputDone }, 1) }

// OutputDone tells whether it is.
func (n *Notes) OutputDone() bool {
	return n.get(func(p *page) *uint64 { return &p.outputDone }) != 0
}

// SetCommandAt notes when the exit command is to be run.
func (n *Notes) SetCommandAt(at lifecycle.Instant) {
	n.set(func(p *page) *uint64 { return &p.commandAt }, uint64(at))
}

// CommandAt is when the exit command is to be run, 0 if that was not decided.
func (n *Notes) CommandAt() lifecycle.Instant {
	return lifecycle.Instant(n.get(func(p *page) *uint64 { return &p.commandAt }))
}

// ClaimCommand is called by the process that is to become the exit command. It
// gives true to one process, once, whoever else asks at whatever time.
func (n *Notes) ClaimCommand(id process.Identity) bool {
	if n == nil || !atomic.CompareAndSwapUint64(&n.p.command, 0, 1) {
		return false
	}
	putIdentity(&n.p.commandOwner, &n.p.ownerBoot, id)
	return true
}

// Command tells whether the exit command was begun, and by which process.
func (n *Notes) Command() (begun bool, owner process.Identity) {
	if n == nil || atomic.LoadUint64(&n.p.command) == 0 {
		return false, owner
	}
	return true, getIdentity(&n.p.commandOwner, &n.p.ownerBoot)
}

// --- signals

const (
	sending = 1
	sent    = 2
)

// Sending notes that a signal is about to be sent. What it gives is for Sent.
//
// Between the two notes is the one system call of which a successor cannot know
// whether it was made.
func (n *Notes) Sending(request lifecycle.RequestID, sig signals.Signal) (slot int) {
	if n == nil {
		return 0
	}
	slot = int(n.p.nextDelivery % deliveries)
	n.p.nextDelivery++
	d := &n.p.deliveries[slot]
	atomic.StoreUint64(&d.state, 0)
	atomic.StoreUint64(&d.request, uint64(request))
	atomic.StoreUint64(&d.signal, uint64(sig))
	atomic.StoreUint64(&d.state, sending)
	return slot
}

// Sent notes what became of it: 0, or why not.
func (n *Notes) Sent(slot int, errno int32) {
	if n == nil {
		return
	}
	d := &n.p.deliveries[slot]
	atomic.StoreUint64(&d.errno, uint64(errno))
	atomic.StoreUint64(&d.state, sent)
}

// Answered forgets a signal: what became of it is in the journal.
func (n *Notes) Answered(request lifecycle.RequestID, sig signals.Signal) {
	if n == nil {
		return
	}
	for i := range n.p.deliveries {
		d := &n.p.deliveries[i]
		if d.state != 0 && d.request == uint64(request) && d.signal == uint64(sig) {
			atomic.StoreUint64(&d.state, 0)
		}
	}
}

// Evidence says what the notes know of a signal.
type Evidence uint8

// The kinds of evidence.
const (
	NotSent Evidence = iota
	Doubtful
	Known
)

// Delivery says what became of a signal that is under way according to the
// journal.
func (n *Notes) Delivery(request lifecycle.RequestID, sig signals.Signal) (e Evidence, errno int32) {
	if n == nil {
		return NotSent, 0
	}
	for back := uint64(1); back <= deliveries && back <= n.p.nextDelivery; back++ {
		d := &n.p.deliveries[(n.p.nextDelivery-back)%deliveries]
		if d.state == 0 || d.request != uint64(request) || d.signal != uint64(sig) {
			continue
		}
		if d.state == sent {
			return Known, int32(d.errno)
		}
		return Doubtful, 0
	}
	return NotSent, 0
}

// ForgetDeliveries is for a successor that has told its machine of them all.
func (n *Notes) ForgetDeliveries() {
	if n == nil {
		return
	}
	for i := range n.p.deliveries {
		atomic.StoreUint64(&n.p.deliveries[i].state, 0)
	}
}

// --- callers

// Answer is what a caller was told.
type Answer struct {
	Outcome lifecycle.Outcome
	Status  lifecycle.Status
	Errno   int32
}

const answered = 1 << 32 // in caller.outcome

// Asked notes who has made a request, and what it is in a number of the caller's:
// one who is not answered comes back.
func (n *Notes) Asked(request lifecycle.RequestID, pid int, what uint64) {
	if n == nil {
		return
	}
	k := &n.p.callers[n.p.nextCaller%callers]
	n.p.nextCaller++
	atomic.StoreUint64(&k.request, 0)
	k.pid, k.what, k.outcome = uint64(pid), what, 0
	atomic.StoreUint64(&k.request, uint64(request))
}

// Told notes what the caller was told, before it is.
func (n *Notes) Told(request lifecycle.RequestID, a Answer) {
	if n == nil {
		return
	}
	for i := range n.p.callers {
		k := &n.p.callers[i]
		if k.request == uint64(request) {
			k.status, k.errno = uint64(a.Status.Kind)<<8|uint64(a.Status.Value), uint64(a.Errno)
			atomic.StoreUint64(&k.outcome, answered|uint64(a.Outcome))
		}
	}
}

// LastRequest finds the last such request that the process has made, and what it
// was told, if it was. 0: none is remembered.
func (n *Notes) LastRequest(pid int, what uint64) (request lifecycle.RequestID, a Answer, told bool) {
	if n == nil {
		return 0, a, false
	}
	for back := uint64(1); back <= callers && back <= n.p.nextCaller; back++ {
		k := &n.p.callers[(n.p.nextCaller-back)%callers]
		if k.request == 0 || k.pid != uint64(pid) || k.what != what {
			continue
		}
		if k.outcome&answered != 0 {
			a = Answer{
				Outcome: lifecycle.Outcome(k.outcome),
				Status:  lifecycle.Status{Kind: lifecycle.StatusKind(k.status >> 8), Value: uint8(k.status)},
				Errno:   int32(k.errno),
			}
		}
		return lifecycle.RequestID(k.request), a, k.outcome&answered != 0
	}
	return 0, a, false
}

// Caller is the process that has made the request, 0 if that is not remembered.
func (n *Notes) Caller(request lifecycle.RequestID) (pid int) {
	if n == nil {
		return 0
	}
	for i := range n.p.callers {
		if k := &n.p.callers[i]; k.request == uint64(request) {
			return int(k.pid)
		}
	}
	return 0
}

// LastID is the highest request that is remembered: a successor counts on from
// there.
func (n *Notes) LastID() lifecycle.RequestID {
	var last uint64
	if n != nil {
		for i := range n.p.callers {
			last = max(last, n.p.callers[i].request)
		}
	}
	return lifecycle.RequestID(last)
}

// SetStarter notes who was given leave to start the container.
func (n *Notes) SetStarter(request lifecycle.RequestID, id process.Identity) {
	if n == nil {
		return
	}
	putIdentity(&n.p.starter, &n.p.starterBoot, id)
	atomic.StoreUint64(&n.p.starterRequest, uint64(request))
}

// Starter is who was given leave to start the container by that request; the
// zero value if that is not known.
func (n *Notes) Starter(request lifecycle.RequestID) process.Identity {
	if n == nil || n.p.starterRequest != uint64(request) {
		return process.Identity{}
	}
	return getIdentity(&n.p.starter, &n.p.starterBoot)
}
