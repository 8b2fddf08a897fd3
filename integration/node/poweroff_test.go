package node

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gracerun.io/integration/host"
	"gracerun.io/internal/crinode"
	"gracerun.io/internal/testbed"
	"gracerun.io/recorder"
	"gracerun.io/signals"
)

//go:embed poweroff
var powerOff embed.FS

// A node is powered off whose pod has 20 s to save, and a grace of 40. By default
// systemd gives 5 s: they stand for its 90, and the pod's for some minutes.
const (
	powerOffSave    = "20s"
	powerOffGrace   = 40
	powerOffDefault = 5
)

// A powerOffCase is a kubelet on one of two stacks.
type powerOffCase struct {
	ours     bool
	graceful bool // the kubelet has a shutdownGracePeriod
	killed   bool // the monitor was killed before
	harmed   bool // what the stack is known for: cri-o issue 8609
}

func (c powerOffCase) String() string {
	name := "conmon + crun 1.8.1"
	if c.ours {
		name = "gracemon + gracerun over crun 1.8.1"
	}
	if c.graceful {
		name += ", shutdownGracePeriod"
	}
	if c.killed {
		name += ", monitor killed before"
	}
	return name
}

// TestPowerOff powers hosts off whose PID 1 is systemd, with a real kubelet and CRI-O
// on systemd cgroups. With a shutdownGracePeriod the kubelet holds the shutdown up, by
// an inhibitor of logind's, and ends the pod before systemd would; without, it is
// systemd that ends it. The kubelet runs alone, with a static pod.
func TestPowerOff(t *testing.T) {
	if os.Getenv("GRACERUN_NODE_TEST") == "" {
		t.Skip("takes some eight minutes: make node-test")
	}
	if err := host.Missing(); err != nil {
		t.Skip(err)
	}
	programs, err := crinode.Find("../../.work/crio")
	if err != nil {
		t.Fatal(err)
	}
	image, err := host.Get(t.Context(), "../../.work/host")
	if errors.Is(err, host.ErrMissing) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, why := range testbed.Build(dir, "gracemon", "gracerun") {
		t.Fatalf("%s: %s", name, why)
	}
	if err := fillForHost(programs, dir); err != nil {
		t.Fatal(err)
	}
	var rows strings.Builder
	for _, c := range []powerOffCase{{harmed: true}, {ours: true}, {ours: true, killed: true}, {graceful: true}, {ours: true, graceful: true}} {
		t.Run(c.String(), func(t *testing.T) {
			transcript, err := image.Run(t.Context(), c.job(dir))
			if err != nil {
				t.Fatal(err)
			}
			told, err := readPowerOff(transcript.Output)
			if err != nil {
				t.Fatalf("%v; its script said:\n%s", err, transcript.Output)
			}
			fmt.Fprintf(&rows, "| %s | %s |\n", c, told)
			if testing.Verbose() {
				t.Logf("the host ran %s; its script said:\n%s", transcript.Took.Round(time.Second), transcript.Output)
			}
			if harm := told.harm(); (harm != "") != c.harmed {
				t.Errorf("harm %q, expected: %v; its script said:\n%s", harm, c.harmed, transcript.Output)
			}
		})
	}
	t.Log("\n" + rows.String())
}

// fillForHost puts into dir what goes to the host: the programs, without what a
// debugger needs, and the images.
func fillForHost(programs crinode.Programs, dir string) error {
	store, err := crinode.StoreBy("vfs", programs, dir)
	if err != nil {
		return err
	}
	calls := []*exec.Cmd{exec.Command("tar", "-C", dir, "--transform", "s/^store/root/", "-cf", dir+"/store.tar", filepath.Base(store))}
	for _, program := range []string{"crio", "kubelet", "lowered", "pinns"} {
		calls = append(calls, exec.Command("strip", "-o", dir+"/"+program, programs.Dir+"/"+program))
	}
	for _, call := range calls {
		if out, err := call.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", call.Args, err, out)
		}
	}
	return nil
}

func (c powerOffCase) job(dir string) host.Job {
	values := []string{"MONITOR", "/usr/bin/conmon", "RUNTIME", "/run/gracelab/bin/crun", "INHIBITS", "no", "SHUTDOWN", "0s",
		"IMAGE", crinode.Image, "SAVE", powerOffSave, "GRACE", fmt.Sprint(powerOffGrace), "STOP", fmt.Sprint(powerOffDefault), "KILLS", "no"}
	if c.ours {
		values[1], values[3] = "/run/gracelab/bin/gracemon", "/run/gracelab/bin/gracerun"
	}
	if c.graceful {
		values[5], values[7] = "yes", "60s"
	}
	if c.killed {
		values[len(values)-1] = "yes"
	}
	fill := strings.NewReplacer(values...)
	job := host.Job{Files: map[string]host.File{}, PowersOff: true, Patience: 10 * time.Minute}
	for from, to := range map[string]string{
		"crio.conf": "gracelab/crio.conf", "kubelet.yaml": "gracelab/kubelet.yaml", "pod.yaml": "gracelab/pod.yaml",
		"policy.json": "gracelab/policy.json", "config.toml": "gracelab/config.toml", "parameters": "gracelab/parameters",
		"crun": "gracelab/bin/crun", "script": "", "exit": "gracelab/exit",
		"crio.service": "systemd/system/crio.service", "kubelet.service": "systemd/system/kubelet.service",
		"stop.conf": "systemd/system.conf.d/stop.conf",
	} {
		text, err := powerOff.ReadFile("poweroff/" + from)
		if err != nil {
			panic(err) // it is part of the program
		}
		if to == "" {
			job.Script = string(text)
			continue
		}
		file := host.File{Text: fill.Replace(string(text))}
		if from == "crun" {
			file.Mode = 0o755
		}
		job.Files[to] = file
	}
	for _, name := range []string{"crio", "kubelet", "lowered", "pinns", "gracemon", "gracerun"} {
		job.Files["gracelab/bin/"+name] = host.File{From: filepath.Join(dir, name), Mode: 0o755}
	}
	job.Files["gracelab/store.tar"] = host.File{From: dir + "/store.tar"}
	return job
}

// poweredOff is what became of the pod. Instants are since the power-off was asked for;
// zero means that it did not happen.
type poweredOff struct {
	told, killed, crioTold time.Duration
	by, killedBy           string
	terms                  int
	saved                  int  // entries of ten
	closed                 bool // its last line is in its log
	exit                   string
}

func (p poweredOff) String() string {
	at := func(d time.Duration, by string) string {
		if d == 0 {
			return "never"
		}
		return fmt.Sprintf("after %.1f s by %s", d.Seconds(), by)
	}
	return fmt.Sprintf("TERM %d×, %s | KILL %s | %d of 10 entries | last line in the log: %v | exit status: %s | crio.service told %s",
		p.terms, at(p.told, p.by), at(p.killed, p.killedBy), p.saved, p.closed, cmp.Or(p.exit, "lost"), at(p.crioTold, "systemd"))
}

// harm says what the pod did not get, "" if nothing.
func (p poweredOff) harm() string {
	var harm []string
	if p.terms != 1 {
		harm = append(harm, fmt.Sprintf("%d TERMs", p.terms))
	}
	if p.saved != 10 {
		harm = append(harm, fmt.Sprintf("%d of 10 entries", p.saved))
	}
	if p.killed != 0 {
		harm = append(harm, "KILL by "+p.killedBy)
	}
	if !p.closed {
		harm = append(harm, "no last line")
	}
	if p.exit != "0" {
		harm = append(harm, "exit status lost")
	}
	if p.crioTold != 0 && (p.told == 0 || p.crioTold < p.told) {
		harm = append(harm, "crio.service is stopped before the pod is told")
	}
	return strings.Join(harm, ", ")
}

func readPowerOff(output string) (p poweredOff, err error) {
	pid, began := 0, time.Duration(0)
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "entry "):
			p.saved++
		case strings.HasSuffix(line, " stdout F closed"):
			p.closed = true
		case strings.HasPrefix(line, "exit status: "):
			p.exit = strings.TrimPrefix(line, "exit status: ")
		}
		ev, err := recorder.Parse(line)
		switch {
		case err != nil: // another program's line
		case ev.What == recorder.Mark:
			if n, ok := strings.CutPrefix(ev.Text, "node: container pid "); ok {
				_, _ = fmt.Sscan(n, &pid)
			}
			if ev.Text == "node: poweroff" {
				began = ev.At
			}
		case ev.What != recorder.Generate || began == 0:
		case ev.Pid == pid && ev.Signal == signals.TERM:
			if p.terms++; p.terms == 1 {
				p.told, p.by = ev.At-began, ev.SenderComm
			}
		case ev.Pid == pid && ev.Signal == signals.KILL && p.killed == 0:
			p.killed, p.killedBy = ev.At-began, ev.SenderComm
		case ev.Comm == "crio" && ev.Signal == signals.TERM && p.crioTold == 0:
			p.crioTold = ev.At - began
		}
	}
	if pid == 0 || began == 0 {
		return p, errors.New("the host was not powered off with a pod on it")
	}
	return p, nil
}
