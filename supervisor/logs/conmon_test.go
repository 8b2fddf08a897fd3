package logs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// asRuntime is a runtime for conmon. The container's output is what create has
// written to it: all of it is in the pipe before conmon reads, so that conmon's
// reads are full ones. The container ends when it reads a line from `go`.
const asRuntime = `#!/bin/sh
case " $* " in *" create "*) ;; *) exit 0 ;; esac
while [ "$1" != --pid-file ]; do shift; done
cat "$INPUT"
sh -c 'read x' <"$GO" &
echo $! >"$2"
`

// conmonLog has the installed conmon log the input, and gives the log.
func conmonLog(t *testing.T, input string, arguments ...string) string {
	t.Helper()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	os.WriteFile(path("runtime"), []byte(asRuntime), 0o755)
	os.Mkdir(path("sockets"), 0o700)
	os.WriteFile(path("input"), []byte(input), 0o600)
	if err := unix.Mkfifo(path("go"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Opened for both, so that neither open waits for the other.
	hold, err := os.OpenFile(path("go"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("conmon", append([]string{"--sync", "-c", testID, "-u", testID, "-n", "compared",
		"-r", path("runtime"), "-b", dir, "-p", path("pid"), "-l", "k8s-file:" + path("log"),
		"--exit-dir", dir, "--socket-dir-path", path("sockets")}, arguments...)...)
	told, tells, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	cmd.ExtraFiles = []*os.File{tells}
	cmd.Env = append(os.Environ(), "INPUT="+path("input"), "GO="+path("go"), "_OCI_SYNCPIPE=3")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tells.Close()
	if _, err := told.Read(make([]byte, 100)); err != nil {
		t.Errorf("conmon does not say that the container was created: %v", err)
	}
	hold.WriteString("\n") // which the container reads and ends
	err = cmd.Wait()
	hold.Close()
	if err != nil {
		t.Fatalf("conmon: %v\n%s", err, complaints.String())
	}
	log, err := os.ReadFile(path("log"))
	if err != nil {
		t.Fatal(err)
	}
	return masked(string(log))
}

// TestAgainstConmon has conmon and our drivers log the same, and compares the
// files. Where conmon cuts a line only because its buffer ended there, ours does
// not, and what a reader puts together is compared.
func TestAgainstConmon(t *testing.T) {
	if _, err := exec.LookPath("conmon"); err != nil {
		t.Skip("conmon is not installed: nothing to compare with")
	}
	long := strings.Repeat("0123456789abcdef", 8192/16)
	lines := numbered(0, 30)
	for name, test := range map[string]struct {
		input   string
		sizeMax int
		total   int
		cut     bool // conmon's buffer ends within a line that fits in one of its own
	}{
		"line":                        {input: "hello\n"},
		"no newline at the end":       {input: "hello\nthere"},
		"empty lines":                 {input: "\n\na\n\n"},
		"NUL":                         {input: "a\x00b\n\x00\n\x00"},
		"carriage returns":            {input: "a\r\nb\rc\n"},
		"not UTF-8":                   {input: "\xff\xfe\xc3\n\xc3"},
		"a buffer full":               {input: long},
		"a buffer full and a newline": {input: long + "\n"},
		"a line of a whole buffer":    {input: long[1:] + "\n"},
		"longer than the buffer":      {input: long + long + "tail\nnext\n"[:4] + "\n"},
		"longer, and lines after it":  {input: long + long + "tail\n" + lines},
		"many reads":                  {input: numbered(0, 2000), cut: true},
		"size-max 1":                  {input: lines, sizeMax: 1},
		"size-max of one line":        {input: lines, sizeMax: prefixLen + 21},
		"size-max of one line less":   {input: lines, sizeMax: prefixLen + 20},
		"size-max 200":                {input: lines, sizeMax: 200},
		"size-max 1000":               {input: lines, sizeMax: 1000},
		"size-max and no newline":     {input: lines + "no newline", sizeMax: 500},
		"size-max, partial too large": {input: "a\n" + long[:500], sizeMax: 300},
		"size-max larger than all":    {input: lines, sizeMax: 100000},
		"global-size-max 500":         {input: lines, total: 500},
		"global-size-max of lines":    {input: lines, total: 4 * (prefixLen + 21)},
		"both":                        {input: lines, sizeMax: 300, total: 700},
	} {
		t.Run(name, func(t *testing.T) {
			var arguments []string
			if test.sizeMax > 0 {
				arguments = append(arguments, "--log-size-max", strconv.Itoa(test.sizeMax))
			}
			if test.total > 0 {
				arguments = append(arguments, "--log-global-size-max", strconv.Itoa(test.total))
			}
			want := conmonLog(t, test.input, arguments...)
			c := run(t, Options{SizeMax: int64(test.sizeMax), GlobalSizeMax: int64(test.total)})
			c.says(test.input)
			c.ends()
			got := c.read()
			if test.cut {
				got, want = content(got), content(want)
			}
			if got != want {
				t.Errorf("ours is\n%.600q\nconmon's\n%.600q", got, want)
			}
		})
	}
}
