package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestStatOfAProgramWithAnEvilName(t *testing.T) {
	c := startHelper(t, "renamed")
	c.line()
	stat, err := openPidfd(t, c.pid()).Stat(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	if stat.Pid != c.pid() || stat.Comm != evilComm || stat.State == Zombie || stat.StartTime < 2 {
		t.Errorf("stat is %+v", stat)
	}
	if d, err := ReadDispositions(c.pid()); err != nil || d.State != stat.State && d.State == Zombie {
		t.Errorf("dispositions are %+v, %v", d, err)
	}
}

func TestParseStatRefuses(t *testing.T) {
	const rest = " S 1 2 3 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0"
	for _, text := range []string{
		"", "12", "12 (", "12 )(", "()", "x (sh)" + rest + " 99", "-1 (sh)" + rest + " 99",
		"12 (sh)", "12 (sh)" + rest, "12 (sh)" + rest + " x", "12 (sh)" + rest + " -1", "12 (sh) SS" + rest[2:] + " 99",
	} {
		if stat, err := ParseStat([]byte(text)); err == nil {
			t.Errorf("ParseStat(%q) = %+v, want an error", text, stat)
		}
	}
}

func TestReadFileOfAnySize(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 4097, 100_000} {
		path := filepath.Join(t.TempDir(), "file")
		want := bytes.Repeat([]byte("x"), size)
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readFile(path); !bytes.Equal(got, want) || err != nil {
			t.Errorf("of %d bytes, %d were read: %v", size, len(got), err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	for _, seed := range []string{"", "12 (sh) S 1", "1 ((\n)) R 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 5", "1 () Z )"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		stat, err := ParseStat(text)
		if err != nil && stat != (Stat{}) {
			t.Errorf("ParseStat(%q): %+v and an error", text, stat)
		}
		if err == nil && !bytes.Contains(text, []byte("("+stat.Comm+")")) {
			t.Errorf("ParseStat(%q): the name %q is not in it", text, stat.Comm)
		}
	})
}

// Whatever a program calls itself, what the kernel says of it is read.
func FuzzParseStatOfAnyName(f *testing.F) {
	f.Add(12, "sh", byte('S'), uint64(345))
	f.Add(1, ") Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20", byte('R'), uint64(0))
	f.Add(1<<22, "(\n)", byte('D'), uint64(1<<64-1))
	f.Fuzz(func(t *testing.T, pid int, comm string, state byte, start uint64) {
		if pid < 0 || state <= ' ' || state == ')' || state >= 0x7f {
			t.Skip()
		}
		text := fmt.Sprintf("%d (%s) %c 1 2 3 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 %d 3133440 382\n", pid, comm, state, start)
		want := Stat{Pid: pid, Comm: comm, State: State(state), StartTime: start}
		if got, err := ParseStat([]byte(text)); got != want || err != nil {
			t.Errorf("ParseStat(%q) = %+v, %v", text, got, err)
		}
	})
}
