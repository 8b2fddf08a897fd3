package monitor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dockerLog reads a log as Docker's clients do: what a stream has written, put together
// from PATH.N, of the largest number, to PATH, and the attributes of its lines.
func dockerLog(path, stream string) (text string, attrs map[string]string, err error) {
	rotated, err := filepath.Glob(path + ".[0-9]*")
	if err != nil {
		return "", nil, err
	}
	for n := len(rotated); n >= 0; n-- {
		name := path
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return "", nil, err
		}
		for lines := json.NewDecoder(bytes.NewReader(b)); lines.More(); {
			var line struct {
				Log, Stream string
				Time        time.Time
				Attrs       map[string]string
			}
			if err := lines.Decode(&line); err != nil {
				return "", nil, err
			}
			if age := time.Since(line.Time); age < 0 || age > 2*patience {
				return "", nil, fmt.Errorf("%+v was written %v ago", line, age)
			}
			if line.Stream == stream {
				text += line.Log
				attrs = line.Attrs
			}
		}
	}
	return text, attrs, nil
}

// A log in Docker's format, beside one in Kubernetes': every line is in each of them
// once, in order, though supervisors are killed and upgraded, the log is rotated at its
// limit, and reopened.
func TestLogIsAJSONFile(t *testing.T) {
	forOurs(t, func(t *testing.T, s *stack) {
		c := s.container(t, `echo '<"\>' >&2; seq 1 2000; printf begun; until [ -e /data/on ]; do sleep 0.01; done; echo " and ended"
			seq 2001 4000; printf 'no end'; printf '\377' >&2; exit 3`)
		path := c.dir + "/json"
		c.started("-l", "json-file:"+path, "--log-size-max", "50000", "--log-rotate", "--log-max-files", "100",
			"--log-tag", "web", "--log-label", "com.example.tier=<front>")
		c.until("the log has all lines that have ended", func() bool {
			text, _, err := dockerLog(path, "stdout") // it may be rotated just now
			return err == nil && strings.HasSuffix(text, "\n2000\n")
		})
		c.killed()
		files := func() int { names, _ := filepath.Glob(path + ".[0-9]*"); return len(names) }
		before := files()
		c.control("2 0 0\n") // which rotates
		c.until("there is a new log", func() bool { return files() > before })
		upgrade := s.command("/", s.monitor, "--upgrade", c.dir+"/state")
		upgrade.Env = append(os.Environ(), "GRACERUN_STATE_DIR="+c.dir+"/state")
		if out, err := upgrade.CombinedOutput(); err != nil {
			t.Errorf("upgrade: %v: %s", err, out)
		}
		c.must(os.WriteFile(c.dir+"/on", nil, 0o644))
		c.killed()
		c.expect("exit file", c.exitFile(), "3")
		c.gone()
		want := ""
		for n := range 4000 {
			want += strconv.Itoa(n+1) + "\n"
			if n+1 == 2000 {
				want += "begun and ended\n"
			}
		}
		got, attrs, err := dockerLog(path, "stdout")
		c.must(err)
		c.expect("stdout", got, want+"no end")
		if len(attrs) != 2 || attrs["tag"] != "web" || attrs["com.example.tier"] != "<front>" {
			t.Errorf("attributes are %q", attrs)
		}
		got, _, err = dockerLog(path, "stderr")
		c.must(err)
		c.expect("stderr", got, "<\"\\>\n\ufffd")
	})
}
