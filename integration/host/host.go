// Package host boots a test host: a small virtual machine of Debian packages
// whose PID 1 is systemd, on the unified cgroup hierarchy. It is for what can't
// be tried on the machine at hand, for one thing because it must be powered off.
//
// The machine is QEMU's, by KVM where that works and by emulation elsewhere; it
// has no network. Its disk is made once (see [Image]) and never written to: each
// boot starts from the same state, with the files of its [Job] in /run.
package host

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Job is what a host is booted for.
type Job struct {
	// Files are put below /run before systemd starts, so that units in
	// systemd/system and settings in systemd/system.conf.d are read at boot.
	Files map[string]File

	// Kernel is added to the kernel's command line, as "security=selinux".
	Kernel string

	// Script is run by bash as a service once the host is up; what it prints is
	// in the transcript. The host is powered off when it ends.
	Script string

	// PowersOff says that the script does that itself, and may be gone before it
	// could end.
	PowersOff bool

	// Patience is how long the host may be silent, on its console and in what the
	// script prints, before it is taken for stuck and ended; 0 means 5 minutes. How
	// long all of it takes is not bounded here: a loaded machine emulates slowly.
	Patience time.Duration
}

// File is a file with what it holds, or the path of the file to copy.
type File struct {
	Text string
	From string
	Mode os.FileMode // 0 means 0644
}

// Transcript is what a host has left behind.
type Transcript struct {
	Output  string        // what the script printed
	Console string        // what kernel and systemd said
	Took    time.Duration // from start to power-off
}

// ErrMissing is why there can be no host on this machine: a program or a
// privilege is missing. The error says which, and what to do.
var ErrMissing = errors.New("no test host can run here")

const (
	defaultPatience = 5 * time.Minute
	exitLine        = "gracelab: script ended with " // the last line of the output, with the exit code
	emulator        = "qemu-system-x86_64"
)

// The service that runs the script. It hears nothing of the shutdown, and
// systemd-shutdown spares what has '@' before its name: so the script can watch
// the host to its end.
const service = `[Unit]
Description=Script of the test host
DefaultDependencies=no
After=dbus.service basic.target

[Service]
Type=simple
ExecStart=/bin/bash -c 'exec -a @script /bin/bash /run/gracelab/start'
StandardInput=null
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/ttyS1
KillMode=process
`

const start = `export SYSTEMD_COLORS=0
(exec -a @script bash /run/gracelab/script)
echo "` + exitLine + `$?"
systemctl poweroff
`

// Run boots the image, does the job and gives what came of it. A script that
// fails is an error, and so is a host that does not come up or does not end;
// the transcript is then what there was until then. The host does not outlive
// this process.
func (i *Image) Run(ctx context.Context, job Job) (*Transcript, error) {
	work, err := os.MkdirTemp("", "gracelab-host-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	initrd := filepath.Join(work, "initrd")
	if err := i.writeInitrd(initrd, job); err != nil {
		return nil, fmt.Errorf("test host: %w", err)
	}
	output := filepath.Join(work, "output")
	console := filepath.Join(work, "console")
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go watchProgress(ctx, cancel, cmp.Or(job.Patience, defaultPatience), console, output)

	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, emulator, i.arguments(initrd, job.Kernel, console, output)...)
	cmd.Stdout, cmd.Stderr = &said, &said
	began := time.Now()
	err = runBound(cmd)
	t := &Transcript{Output: readText(output), Console: readText(console), Took: time.Since(began)}
	switch {
	case ctx.Err() != nil:
		return t, fmt.Errorf("test host: ended after %v: %w; the last of its console:\n%s\nand of its script:\n%s",
			t.Took.Round(time.Second), context.Cause(ctx), lastLines(t.Console), lastLines(t.Output))
	case err != nil:
		return t, fmt.Errorf("test host: %s: %w: %s", emulator, err, strings.TrimSpace(said.String()))
	}
	return t, t.judge(job.PowersOff)
}

func readText(path string) string {
	text, _ := os.ReadFile(path) // not there: the host did not get that far
	return strings.ReplaceAll(string(text), "\r", "")
}

// judge looks how the script ended.
func (t *Transcript) judge(powersOff bool) error {
	for line := range strings.Lines(t.Output) {
		if code, ok := strings.CutPrefix(strings.TrimSpace(line), exitLine); ok {
			if code != "0" {
				return fmt.Errorf("test host: the script ended with %s:\n%s", code, t.Output)
			}
			return nil
		}
	}
	switch {
	case t.Output == "":
		return fmt.Errorf("test host: the script did not run; console:\n%s", t.Console)
	case !powersOff:
		return fmt.Errorf("test host: the script did not end:\n%s", t.Output)
	}
	return nil
}

// arguments of the emulator. Its microvm starts quicker than the q35, but often
// not at all without KVM: the kernel then finds no clock to measure the TSC by.
func (i *Image) arguments(initrd, kernel, console, output string) []string {
	accel, cpu := "tcg,thread=multi", "max"
	if kvm() {
		accel, cpu = "kvm", "host"
	}
	return []string{
		"-M", "q35", "-accel", accel, "-cpu", cpu, "-smp", "2", "-m", strconv.Itoa(memoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", i.path("vmlinuz"), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 rw systemd.unit=basic.target systemd.wants=gracelab.service systemd.getty_auto=no " +
			"systemd.show_status=yes systemd.log_target=console loglevel=4 " + kernel,
		"-serial", "file:" + console, "-serial", "file:" + output,
		"-drive", "if=none,id=root,format=raw,snapshot=on,file=" + i.path("root.ext4"), "-device", "virtio-blk-pci,drive=root",
	}
}

const memoryMiB = 1024

// kvm says whether the processor can virtualise. /dev/kvm alone does not: it is
// there, too, in virtual machines that can't nest others.
func kvm() bool {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !bytes.Contains(cpuinfo, []byte(" vmx ")) && !bytes.Contains(cpuinfo, []byte(" svm ")) {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
