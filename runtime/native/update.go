package native

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/docker/go-units"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/intelrdt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
)

// A limit is a flag of update and the resource it changes.
type limit struct {
	flag, usage string
	set         func(r *specs.LinuxResources, value string) error
}

var limits = []limit{
	{"blkio-weight", "weight of block I/O, 10 to 1000", func(r *specs.LinuxResources, v string) error {
		weight, err := strconv.ParseUint(v, 10, 16)
		small := uint16(weight)
		r.BlockIO.Weight = &small
		return err
	}},
	{"cpu-burst", "CPU time that may be saved up, in µs", func(r *specs.LinuxResources, v string) error { return natural(&r.CPU.Burst, v) }},
	{"cpu-idle", "1: run only when nothing else does", func(r *specs.LinuxResources, v string) error { return integer(&r.CPU.Idle, v) }},
	{"cpu-period", "CPU period, in µs", func(r *specs.LinuxResources, v string) error { return natural(&r.CPU.Period, v) }},
	{"cpu-quota", "CPU time in a period, in µs", func(r *specs.LinuxResources, v string) error { return integer(&r.CPU.Quota, v) }},
	{"cpu-rt-period", "period of realtime CPU time, in µs", func(r *specs.LinuxResources, v string) error { return natural(&r.CPU.RealtimePeriod, v) }},
	{"cpu-rt-runtime", "realtime CPU time in a period, in µs", func(r *specs.LinuxResources, v string) error { return integer(&r.CPU.RealtimeRuntime, v) }},
	{"cpu-share", "weight of CPU time", func(r *specs.LinuxResources, v string) error { return natural(&r.CPU.Shares, v) }},
	{"cpuset-cpus", "CPUs to run on", func(r *specs.LinuxResources, v string) error { r.CPU.Cpus = v; return nil }},
	{"cpuset-mems", "memory nodes to use", func(r *specs.LinuxResources, v string) error { r.CPU.Mems = v; return nil }},
	{"kernel-memory", "obsolete", func(r *specs.LinuxResources, v string) error { return warnOfKernelMemory() }},
	{"kernel-memory-tcp", "obsolete", func(r *specs.LinuxResources, v string) error { return warnOfKernelMemory() }},
	{"memory", "memory limit, in bytes or with a unit; -1: none", func(r *specs.LinuxResources, v string) error { return size(&r.Memory.Limit, v) }},
	{"memory-reservation", "memory that is protected, in bytes or with a unit", func(r *specs.LinuxResources, v string) error { return size(&r.Memory.Reservation, v) }},
	{"memory-swap", "limit of memory and swap together; -1: none", func(r *specs.LinuxResources, v string) error { return size(&r.Memory.Swap, v) }},
	{"pids-limit", "how many processes there may be; -1: any number", func(r *specs.LinuxResources, v string) error { return integer(&r.Pids.Limit, v) }},
}

func natural(to **uint64, text string) error {
	value, err := strconv.ParseUint(text, 10, 64)
	*to = &value
	return err
}

func integer(to **int64, text string) error {
	value, err := strconv.ParseInt(text, 10, 64)
	*to = &value
	return err
}

func size(to **int64, text string) (err error) {
	value := int64(-1)
	if text != "-1" {
		value, err = units.RAMInBytes(text)
	}
	*to = &value
	return err
}

func warnOfKernelMemory() error {
	logrus.Warn("Kernel memory settings are ignored and will be removed")
	return nil
}

func updateCommand(flags *flag.FlagSet) action {
	file := flags.String("resources", "", "`file` with the resources to change, as in config.json, or - for standard input; other flags are ignored then")
	alias(flags, "resources", "r")
	l3 := flags.String("l3-cache-schema", "", "Intel RDT/CAT `schema`")
	bandwidth := flags.String("mem-bw-schema", "", "Intel RDT/MBA `schema`")
	values := map[string]*string{}
	for _, l := range limits {
		values[l.flag] = flags.String(l.flag, "", l.usage)
	}
	return func(g *globals, args []string) error {
		container, err := load(g, args[0])
		if err != nil {
			return err
		}
		wanted, err := readResources(*file, values)
		if err != nil {
			return err
		}
		config := container.Config()
		change(config.Cgroups.Resources, wanted)
		if err := changeRDT(&config, *l3, *bandwidth); err != nil {
			return err
		}
		return set(container, config)
	}
}

func set(container *libcontainer.Container, config configs.Config) error {
	// Rules of devices may have been added by others (a GPU's plugin) and would
	// be lost if ours were written again.
	config.Cgroups.SkipDevices = true
	return container.Set(config)
}

// readResources gives what is to be changed: the contents of the file, or else
// of the flags.
func readResources(file string, values map[string]*string) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{},
		CPU:     &specs.LinuxCPU{},
		BlockIO: &specs.LinuxBlockIO{},
		Pids:    &specs.LinuxPids{},
	}
	if file != "" {
		return r, decodeFile(file, r)
	}
	for _, l := range limits {
		if value := *values[l.flag]; value != "" {
			if err := l.set(r, value); err != nil {
				return nil, fmt.Errorf("invalid value for %s: %w", l.flag, err)
			}
		}
	}
	return r, nil
}

func decodeFile(name string, into any) error {
	var input io.Reader = os.Stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		input = file
	}
	return json.NewDecoder(input).Decode(into)
}

// change sets what is wanted and leaves the rest as it is: of CPU quota and
// period, for example, one may be given without the other, while the kernel
// needs to be told both.
func change(r *cgroups.Resources, wanted *specs.LinuxResources) {
	if m := wanted.Memory; m != nil {
		assign(&r.Memory, m.Limit)
		assign(&r.MemoryReservation, m.Reservation)
		assign(&r.MemorySwap, m.Swap)
		if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
			r.MemorySwap = 0 // a limit of swap makes no sense without one of memory
		}
		r.MemoryCheckBeforeUpdate = m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate
	}
	if c := wanted.CPU; c != nil {
		changeCPU(r, c)
	}
	if b := wanted.BlockIO; b != nil {
		changeBlockIO(r, b)
	}
	if p := wanted.Pids; p != nil && p.Limit != nil {
		r.PidsLimit = p.Limit
	}
	// These are written after all others; old ones would undo the change.
	r.Unified = wanted.Unified
}

func assign[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func changeCPU(r *cgroups.Resources, c *specs.LinuxCPU) {
	assign(&r.CpuPeriod, c.Period)
	assign(&r.CpuQuota, c.Quota)
	assign(&r.CpuRtPeriod, c.RealtimePeriod)
	assign(&r.CpuRtRuntime, c.RealtimeRuntime)
	if c.Burst != nil {
		r.CpuBurst = c.Burst
	}
	if c.Cpus != "" {
		r.CpusetCpus = c.Cpus
	}
	if c.Mems != "" {
		r.CpusetMems = c.Mems
	}
	shares := c.Shares
	if c.Idle != nil {
		r.CPUIdle = c.Idle
		if shares == nil {
			// The kernel refuses a weight for an idle cgroup.
			shares = new(uint64)
		}
	}
	if shares != nil {
		r.CpuShares = *shares
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*shares)
	}
}

func changeBlockIO(r *cgroups.Resources, b *specs.LinuxBlockIO) {
	assign(&r.BlkioWeight, b.Weight)
	assign(&r.BlkioLeafWeight, b.LeafWeight)
	for _, d := range b.WeightDevice {
		changeWeight(&r.BlkioWeightDevice, d)
	}
	for _, t := range []struct {
		devices *[]*cgroups.ThrottleDevice
		wanted  []specs.LinuxThrottleDevice
	}{
		{&r.BlkioThrottleReadBpsDevice, b.ThrottleReadBpsDevice},
		{&r.BlkioThrottleWriteBpsDevice, b.ThrottleWriteBpsDevice},
		{&r.BlkioThrottleReadIOPSDevice, b.ThrottleReadIOPSDevice},
		{&r.BlkioThrottleWriteIOPSDevice, b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.wanted {
			changeThrottle(t.devices, d)
		}
	}
}

func changeWeight(devices *[]*cgroups.WeightDevice, wanted specs.LinuxWeightDevice) {
	// Of equal devices the last one counts: they are written one after the other.
	for _, d := range slices.Backward(*devices) {
		if d.Major == wanted.Major && d.Minor == wanted.Minor {
			assign(&d.Weight, wanted.Weight)
			assign(&d.LeafWeight, wanted.LeafWeight)
			return
		}
	}
	var weight, leaf uint16
	assign(&weight, wanted.Weight)
	assign(&leaf, wanted.LeafWeight)
	*devices = append(*devices, cgroups.NewWeightDevice(wanted.Major, wanted.Minor, weight, leaf))
}

func changeThrottle(devices *[]*cgroups.ThrottleDevice, wanted specs.LinuxThrottleDevice) {
	for _, d := range slices.Backward(*devices) { // see changeWeight
		if d.Major == wanted.Major && d.Minor == wanted.Minor {
			d.Rate = wanted.Rate
			return
		}
	}
	*devices = append(*devices, cgroups.NewThrottleDevice(wanted.Major, wanted.Minor, wanted.Rate))
}

func changeRDT(config *configs.Config, l3, bandwidth string) error {
	switch {
	case l3 == "" && bandwidth == "":
		return nil
	case l3 != "" && !intelrdt.IsCATEnabled():
		return errors.New("no L3 cache schema: this host has no Intel RDT/CAT, or it is off")
	case bandwidth != "" && !intelrdt.IsMBAEnabled():
		return errors.New("no memory bandwidth schema: this host has no Intel RDT/MBA, or it is off")
	case config.IntelRdt == nil:
		return errors.New("updating a non-existent Intel RDT configuration is not supported")
	}
	if l3 != "" {
		config.IntelRdt.L3CacheSchema = l3
	}
	if bandwidth != "" {
		config.IntelRdt.MemBwSchema = bandwidth
	}
	return nil
}
