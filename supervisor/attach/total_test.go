package attach

import (
	"strconv"
	"testing"
)

// Many clients that came late and do not read have a bound together. Each gets the
// beginning of what it missed, whole, and hears how much more there was; one that
// reads has everything.
func TestManySlowWatchers(t *testing.T) {
	r := newRig(t)
	const total = 300_000
	s := r.listen(Config{Limit: 100_000, Total: total})
	s.Started()
	var slow []*peer
	for range 40 {
		slow = append(slow, r.attach(s))
	}
	fast := r.attach(s)
	data := pattern(3 << 20)
	most := 0
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 10_000)
		s.Output(Stdout, rest[:n])
		most = max(most, s.kept)
		rest = rest[n:]
		fast.readAll()
	}
	same(t, "stdout of the fast client", fast.out.Bytes(), data)
	if room := len(slow) * len(block{}.bytes); most > total+room {
		t.Errorf("%d bytes were kept, want no more than %d and a block for each", most, total)
	}
	if most < total/2 {
		t.Errorf("%d bytes were kept at most: there was room for %d", most, total)
	}
	for i, p := range slow {
		r.readEnd(p)
		same(t, "stdout of a slow client", p.out.Bytes(), data[:p.out.Len()])
		want := "gracemon: this client reads too slowly and is cut off: " + strconv.Itoa(len(data)-p.out.Len()) + " bytes of output are missing here\n"
		if got := p.err.String(); got != want {
			t.Errorf("client %d: notice %q, want %q", i, got, want)
		}
		p.close()
	}
	r.turns()
	if s.kept != 0 {
		t.Errorf("%d bytes are said to be kept for nobody", s.kept)
	}
	quiet(t, r)
}
