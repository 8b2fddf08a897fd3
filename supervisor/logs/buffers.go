package logs

import "golang.org/x/sys/unix"

// outSize holds what a batch of 100-byte lines becomes with its time stamps.
const outSize = batch + batch/2

// idleSize is how much of a buffer may stay in memory while nothing moves.
const idleSize = 64 << 10

// buffer is memory that is mapped when it is needed, so that its pages can be given
// back, which the heap does not do for minutes.
type buffer struct{ mem []byte }

// bytes gives the buffer, which is made with that size.
func (b *buffer) bytes(size int) []byte {
	if b.mem == nil {
		mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			mem = make([]byte, size)
		}
		b.mem = mem
	}
	return b.mem
}

// shrink gives the pages back.
func (b *buffer) shrink() {
	if b.mem != nil {
		unix.Madvise(b.mem, unix.MADV_DONTNEED)
	}
}

func (b *buffer) free() {
	if b.mem != nil {
		unix.Munmap(b.mem)
		b.mem = nil
	}
}

// input is where the spools of all streams are read to.
type input struct {
	buffer

	stream  *Stream // whose spool the first bytes are a copy of
	at      int64
	content []byte
}

// all gives the buffer, for other content.
func (b *input) all() []byte {
	b.forget()
	return b.bytes(batch)
}

// read gives bytes of a stream's spool. Several logs ask for the same ones: they
// are read once.
func (b *input) read(s *Stream, at int64, max int) []byte {
	size := s.spool.Size()
	if b.stream == s && at >= b.at {
		have := b.at + int64(len(b.content)) - at
		if want := min(size-at, int64(max)); have >= want {
			return b.content[at-b.at:][:want]
		}
	}
	in := b.all()
	data, err := s.spool.Read(in[:max], at)
	if err != nil {
		return nil
	}
	b.stream, b.at, b.content = s, at, data
	return data
}

// forget says that spools have changed.
func (b *input) forget() { b.stream, b.content = nil, nil }

func (b *input) shrink() {
	b.forget()
	b.buffer.shrink()
}

func (b *input) free() {
	b.forget()
	b.buffer.free()
}
