package monitor

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A path may have a colon in it: all that follows the driver is the path.
func TestLogPathWithColon(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, "echo hello; exit 3")
		c.log = c.dir + "/a:b"
		c.started()
		c.expect("end", c.ended(), "exit 3, persisted 3\nstdout F hello")
		if _, err := os.Lstat(c.dir + "/a"); err == nil {
			t.Error("there is a log without the part after the colon")
		}
		c.gone()
	})
}

// Where there is no journald the caller hears nothing of it: it has no container
// yet that could have said anything.
func TestNoJournald(t *testing.T) {
	state := t.TempDir()
	ours, theirs := stacks("runc")
	for _, s := range []*stack{ours, theirs} {
		t.Run(s.name, func(t *testing.T) {
			s.need(t)
			s.listening(t, "/run/another", func() error {
				return os.NewSyscallError("mount /run", unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"))
			})
			c := s.container(t, "echo out; exit 3")
			c.env = []string{stateVariable + state}
			k := &crio{logSizeMax: unlimited, journald: true}
			c.expect("create", c.crioCreate(k), "create: status 0, {\"pid\": PID}\n")
			c.crioCall(k, "start", c.id)
			c.expect("end", c.ended(), "exit 3, persisted 3\nstdout F out")
			c.gone()
			said, err := os.ReadFile(c.dir + "/said")
			c.must(err)
			c.expect("stderr", string(said), "")
			c.crioDelete(k)
		})
	}
}

// Times in the log are local, also by a TZ that spells the rules out.
func TestLogInTheTimeZoneOfTZ(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		for tz, want := range map[string]string{"<+0545>-5:45": "+05:45", "XYZ3": "-03:00", "Asia/Tokyo": "+09:00"} {
			c := s.container(t, "echo hello")
			c.env = []string{"TZ=" + tz}
			c.started()
			c.exitFile()
			text, err := os.ReadFile(c.log)
			c.must(err)
			at, _, _ := strings.Cut(string(text), " ")
			logged, err := time.Parse(time.RFC3339Nano, at)
			if age := time.Since(logged); err != nil || !strings.HasSuffix(at, want) || age < 0 || age > patience {
				t.Errorf("TZ=%s: the time is %s, %v ago, want it with %s", tz, at, age, want)
			}
			c.gone()
		}
	})
}

// A log that is a FIFO: its reader may come late and read slowly, while the supervisor
// dies, is upgraded or sleeps. It gets every record once, in order, and the end.
func TestLogIsAFIFO(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, "seq 1 1500; until [ -e /data/on ]; do sleep 0.01; done; seq 1501 3000; exit 3")
		c.log = c.dir + "/fifo"
		c.env = []string{"GRACEMON_SLEEP=1ms"}
		c.must(unix.Mkfifo(c.log, 0o640))
		c.started()
		reader, err := os.Open(c.log)
		c.must(err)
		defer reader.Close()
		read := make(chan []string)
		go func() {
			var got []string
			part := ""
			for lines := bufio.NewScanner(reader); lines.Scan(); {
				record := strings.SplitN(lines.Text(), " ", 4)
				if part += record[len(record)-1]; len(record) == 4 && record[2] == "P" {
					continue
				}
				got, part = append(got, part), ""
				if len(got)%100 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			read <- got
		}()
		for range 2 {
			before, err := os.Stat(c.dir + "/conmon-pidfile")
			c.must(err)
			c.must(unix.Kill(c.monitor, unix.SIGKILL))
			c.until("there is a successor", func() bool { // which writes it anew
				now, err := os.Stat(c.dir + "/conmon-pidfile")
				return err == nil && !(os.SameFile(before, now) && now.ModTime().Equal(before.ModTime()))
			})
			text, err := os.ReadFile(c.dir + "/conmon-pidfile")
			c.must(err)
			c.monitor, err = strconv.Atoi(string(text))
			c.must(err)
		}
		upgrade := s.command("/", s.monitor, "--upgrade", c.dir+"/state")
		upgrade.Env = append(os.Environ(), "GRACERUN_STATE_DIR="+c.dir+"/state")
		if out, err := upgrade.CombinedOutput(); err != nil {
			t.Errorf("upgrade: %v: %s", err, out)
		}
		c.must(os.WriteFile(c.dir+"/on", nil, 0o644))
		c.expect("exit file", c.exitFile(), "3")
		c.gone()
		got := <-read
		// A supervisor that is killed between a write and its note cannot be known to have
		// written: up to 4 KiB come again.
		last, again := 0, 0
		for i, text := range got {
			n, err := strconv.Atoi(text)
			if err == nil && n <= last && last-n < 4096/len("2026-11-28T16:00:00.123456789+00:00 stdout F 1\n") {
				again++
				last = n - 1
			}
			if err != nil || n != last+1 {
				t.Fatalf("record %d is %s, after %d", i+1, text, last)
			}
			last = n
		}
		if last != 3000 || again > 2 {
			t.Errorf("the last record is %d, want 3000; some came again %d times, for 2 kills", last, again)
		}
	})
}
