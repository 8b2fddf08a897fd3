package logs

import "golang.org/x/sys/unix"

// outSize holds what a batch of 100-byte lines becomes with its time stamps.
const outSize = batch + batch/2

// idleSize is how much of a buffer may stay in memory while nothing moves.
const idleSize = 64 << 10

// buffers are where the spool is read to and log lines are made in. They are
// mapped, so that pages that are not needed any more can be given back, which
// the heap does not do for minutes.
type buffers struct {
	mem []byte // in, out

	stream  *Stream // whose spool the first bytes of in are a copy of
	at      int64
	content []byte
}

func (b *buffers) in() []byte {
	b.forget()
	return b.all()[:batch]
}

func (b *buffers) out() []byte { return b.all()[batch:] }

func (b *buffers) all() []byte {
	if b.mem == nil {
		mem, err := unix.Mmap(-1, 0, batch+outSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			mem = make([]byte, batch+outSize)
		}
		b.mem = mem
	}
	return b.mem
}

// read gives bytes of a stream's spool. Several logs ask for the same ones: they
// are read once.
func (b *buffers) read(s *Stream, at int64, max int) []byte {
	size := s.spool.Size()
	if b.stream == s && at >= b.at {
		have := b.at + int64(len(b.content)) - at
		if want := min(size-at, int64(max)); have >= want {
			return b.content[at-b.at:][:want]
		}
	}
	in := b.in()
	data, err := s.spool.Read(in[:max], at)
	if err != nil {
		return nil
	}
	b.stream, b.at, b.content = s, at, data
	return data
}

// forget says that spools have changed.
func (b *buffers) forget() { b.stream, b.content = nil, nil }

// shrink gives the memory back.
func (b *buffers) shrink() {
	if b.mem != nil {
		b.forget()
		unix.Madvise(b.mem, unix.MADV_DONTNEED)
	}
}

func (b *buffers) free() {
	if b.mem != nil {
		b.forget()
		unix.Munmap(b.mem)
		b.mem = nil
	}
}
