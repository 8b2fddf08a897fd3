package attach

// queue keeps packets for a client whose socket is full.
//
// Packets lie in blocks, one behind the other, each with its length before it
// and its stream as its first byte, as it goes out. Output of the same stream is
// added to the last packet while there is room: many small writes of the
// container make few packets.
type queue struct {
	first, last *block
	size        int // bytes of all packets, with what is before them
	blocks      int
	tail        int // where the last packet in the last block begins
}

// block is as large as a size class of the allocator.
type block struct {
	next       *block
	start, end int16 // what of bytes is used
	bytes      [8192 - 8 - 4]byte
}

// lengthBytes come before a packet.
const lengthBytes = 2

// spareBlocks is how many unused blocks a server keeps for the next time.
const spareBlocks = 8

func (q *queue) empty() bool { return q.first == nil }

// push adds a copy of data.
func (q *queue) push(s *Server, stream Stream, data []byte) {
	for len(data) > 0 {
		if !q.extends(stream) {
			q.open(s, stream)
		}
		b := q.last
		n := copy(b.bytes[b.end:], data)
		b.end += int16(n)
		b.setLength(q.tail, int(b.end)-q.tail-lengthBytes)
		q.grow(s, n)
		data = data[n:]
	}
}

// extends tells whether there is a last packet of the stream, with room.
func (q *queue) extends(stream Stream) bool {
	b := q.last
	return b != nil && Stream(b.bytes[q.tail+lengthBytes]) == stream && int(b.end) < len(b.bytes)
}

// open begins a packet.
func (q *queue) open(s *Server, stream Stream) {
	if b := q.last; b == nil || len(b.bytes)-int(b.end) < lengthBytes+2 {
		b = s.block()
		if q.last == nil {
			q.first = b
		} else {
			q.last.next = b
		}
		q.last = b
		q.blocks++
	}
	b := q.last
	q.tail = int(b.end)
	b.setLength(q.tail, 1)
	b.bytes[q.tail+lengthBytes] = byte(stream)
	b.end += lengthBytes + 1
	q.grow(s, lengthBytes+1)
}

func (q *queue) grow(s *Server, n int) {
	q.size += n
	s.kept += n
}

// packet is the first one, as it goes out.
func (q *queue) packet() []byte {
	b := q.first
	from := int(b.start) + lengthBytes
	return b.bytes[from : from+b.length(int(b.start))]
}

// pop removes the first packet.
func (q *queue) pop(s *Server) {
	b := q.first
	n := lengthBytes + b.length(int(b.start))
	b.start += int16(n)
	q.grow(s, -n)
	if b.start < b.end {
		return
	}
	q.first = b.next
	if q.first == nil {
		q.last = nil
	}
	q.blocks--
	s.give(b)
}

// halve removes the newest half of the blocks, and gives how much output was in
// them. Nothing may be pushed afterwards.
func (q *queue) halve(s *Server) (output int) {
	q.blocks = (q.blocks + 1) / 2
	last := q.first
	for range q.blocks - 1 {
		last = last.next
	}
	gone := last.next
	q.last, last.next = last, nil
	for gone != nil {
		b := gone
		gone = b.next
		for at := int(b.start); at < int(b.end); {
			n := b.length(at)
			output += n - 1
			at += lengthBytes + n
			q.grow(s, -lengthBytes-n)
		}
		s.give(b)
	}
	return output
}

func (b *block) length(at int) int { return int(b.bytes[at])<<8 | int(b.bytes[at+1]) }

func (b *block) setLength(at, n int) { b.bytes[at], b.bytes[at+1] = byte(n>>8), byte(n) }

func (s *Server) block() *block {
	b := s.spare
	if b == nil {
		return &block{}
	}
	s.spare, b.next = b.next, nil
	s.spares--
	return b
}

func (s *Server) give(b *block) {
	if s.spares == spareBlocks {
		return
	}
	b.start, b.end = 0, 0
	b.next, s.spare = s.spare, b
	s.spares++
}
