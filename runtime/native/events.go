package native

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/intelrdt"
	"github.com/opencontainers/runc/types"
	"github.com/sirupsen/logrus"
)

func eventsCommand(flags *flag.FlagSet) action {
	interval := flags.Duration("interval", 5*time.Second, "`time` between two reports")
	once := flags.Bool("stats", false, "report usage once and end")
	return func(g *globals, args []string) error {
		if *interval <= 0 {
			return errors.New("duration interval must be greater than 0")
		}
		container, status, err := loadWithStatus(g, args[0])
		if err != nil {
			return err
		}
		if status == libcontainer.Stopped {
			return fmt.Errorf("container with id %s is not running", container.ID())
		}
		if *once {
			return printUsageOf(container)
		}
		return follow(container, *interval)
	}
}

// follow reports until the container has ended.
func follow(container *libcontainer.Container, interval time.Duration) error {
	outOfMemory, err := container.NotifyOOM()
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case _, alive := <-outOfMemory:
			if !alive {
				return nil
			}
			if err := printEvent(&types.Event{Type: "oom", ID: container.ID()}); err != nil {
				return err
			}
		case <-tick.C:
			if err := printUsageOf(container); err != nil {
				logrus.Error(err)
			}
		}
	}
}

func printUsageOf(container *libcontainer.Container) error {
	stats, err := container.Stats()
	if err != nil {
		return err
	}
	return printEvent(&types.Event{Type: "stats", ID: container.ID(), Data: usage(stats)})
}

func printEvent(e *types.Event) error { return json.NewEncoder(os.Stdout).Encode(e) }

// usage gives libcontainer's statistics under the names that they have in
// runc's JSON, which cAdvisor and containerd's shim v1 read.
func usage(stats *libcontainer.Stats) *types.Stats {
	cg := stats.CgroupStats
	if cg == nil {
		return nil
	}
	u := &types.Stats{
		CPU:               cpuUsage(&cg.CpuStats),
		CPUSet:            types.CPUSet(cg.CPUSetStats),
		Memory:            memoryUsage(&cg.MemoryStats),
		Pids:              types.Pids{Current: cg.PidsStats.Current, Limit: cg.PidsStats.Limit},
		Blkio:             blkioUsage(&cg.BlkioStats),
		Hugetlb:           map[string]types.Hugetlb{},
		NetworkInterfaces: stats.Interfaces,
	}
	for size, h := range cg.HugetlbStats {
		u.Hugetlb[size] = types.Hugetlb{Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt}
	}
	if stats.IntelRdtStats != nil {
		u.IntelRdt = rdtUsage(stats.IntelRdtStats)
	}
	return u
}

func cpuUsage(s *cgroups.CpuStats) types.Cpu {
	return types.Cpu{
		Usage: types.CpuUsage{
			Total:        s.CpuUsage.TotalUsage,
			User:         s.CpuUsage.UsageInUsermode,
			Kernel:       s.CpuUsage.UsageInKernelmode,
			Percpu:       s.CpuUsage.PercpuUsage,
			PercpuUser:   s.CpuUsage.PercpuUsageInUsermode,
			PercpuKernel: s.CpuUsage.PercpuUsageInKernelmode,
		},
		Throttling: types.Throttling{
			Periods:          s.ThrottlingData.Periods,
			ThrottledPeriods: s.ThrottlingData.ThrottledPeriods,
			ThrottledTime:    s.ThrottlingData.ThrottledTime,
		},
		PSI: s.PSI,
	}
}

func memoryUsage(s *cgroups.MemoryStats) types.Memory {
	entry := func(m cgroups.MemoryData) types.MemoryEntry {
		return types.MemoryEntry{Limit: m.Limit, Usage: m.Usage, Max: m.MaxUsage, Failcnt: m.Failcnt}
	}
	return types.Memory{
		Cache:     s.Cache,
		Usage:     entry(s.Usage),
		Swap:      entry(s.SwapUsage),
		Kernel:    entry(s.KernelUsage),
		KernelTCP: entry(s.KernelTCPUsage),
		Raw:       s.Stats,
		PSI:       s.PSI,
	}
}

func blkioUsage(s *cgroups.BlkioStats) types.Blkio {
	entries := func(from []cgroups.BlkioStatEntry) []types.BlkioEntry {
		to := make([]types.BlkioEntry, len(from))
		for i, e := range from {
			to[i] = types.BlkioEntry(e)
		}
		return to
	}
	return types.Blkio{
		IoServiceBytesRecursive: entries(s.IoServiceBytesRecursive),
		IoServicedRecursive:     entries(s.IoServicedRecursive),
		IoQueuedRecursive:       entries(s.IoQueuedRecursive),
		IoServiceTimeRecursive:  entries(s.IoServiceTimeRecursive),
		IoWaitTimeRecursive:     entries(s.IoWaitTimeRecursive),
		IoMergedRecursive:       entries(s.IoMergedRecursive),
		IoTimeRecursive:         entries(s.IoTimeRecursive),
		SectorsRecursive:        entries(s.SectorsRecursive),
		PSI:                     s.PSI,
	}
}

func rdtUsage(s *intelrdt.Stats) types.IntelRdt {
	u := types.IntelRdt{Schemata: s.Schemata}
	if intelrdt.IsCATEnabled() {
		u.L3CacheInfo = (*types.L3CacheInfo)(s.L3CacheInfo)
		u.L3CacheSchemaRoot, u.L3CacheSchema = s.L3CacheSchemaRoot, s.L3CacheSchema
	}
	if intelrdt.IsMBAEnabled() {
		u.MemBwInfo = (*types.MemBwInfo)(s.MemBwInfo)
		u.MemBwSchemaRoot, u.MemBwSchema = s.MemBwSchemaRoot, s.MemBwSchema
	}
	if intelrdt.IsMBMEnabled() {
		u.MBMStats = s.MBMStats
	}
	if intelrdt.IsCMTEnabled() {
		u.CMTStats = s.CMTStats
	}
	return u
}
