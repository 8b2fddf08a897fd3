package bench

import (
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is where it was measured.
type Host struct {
	Kernel  string `json:"kernel"`
	CPU     string `json:"cpu"`
	CPUs    int    `json:"cpus"`
	Memory  string `json:"memory"`
	System  string `json:"system"`
	Go      string `json:"go"`
	Load    string `json:"load"` // load averages of 1, 5 and 15 minutes at the end
	Machine string `json:"machine"`
}

func thisHost() Host {
	h := Host{CPUs: runtime.NumCPU(), Go: runtime.Version(), Machine: runtime.GOARCH}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		h.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	h.CPU = field("/proc/cpuinfo", "model name")
	h.Memory = field("/proc/meminfo", "MemTotal")
	h.System = strings.Trim(field("/etc/os-release", "PRETTY_NAME"), `"`)
	return h
}

// field gives the value of the first line "key: value" or "key=value".
func field(file, key string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, key); found {
			return strings.TrimSpace(strings.TrimLeft(rest, " \t:="))
		}
	}
	return ""
}

// loadAverages tells how much else the machine had to do.
func loadAverages() string {
	text, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], ", ")
}
