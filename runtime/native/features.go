package native

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	runcfeatures "github.com/opencontainers/runc/types/features"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"gracerun.io/internal/version"
)

// Annotations of `features`.
const (
	annotationVersion      = "io.gracerun.native.version"
	annotationLibcontainer = "io.gracerun.native.libcontainer.version"
)

// printVersion has the shape that Docker, containerd and Podman parse: "NAME
// version VERSION", and then a line for each part.
func printVersion(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s version %s\ncommit: %s\nspec: %s\ngo: %s\nlibcontainer: %s\n",
		program, version.Version, commit(), specs.Version, runtime.Version(), libcontainerVersion())
	if err == nil && seccomp.Enabled {
		_, err = fmt.Fprintf(w, "libseccomp: %s\n", libseccompVersion())
	}
	return err
}

func libseccompVersion() string {
	major, minor, patch := seccomp.Version()
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}

// commit gives the revision that the Go command built from, if it was told to
// record it, or else the version, which says as much.
func commit() string {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return version.Version
}

func libcontainerVersion() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "github.com/opencontainers/runc" {
			return module.Version
		}
	}
	return "unknown"
}

func featuresCommand(*flag.FlagSet) action {
	return func(*globals, []string) error {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "    ")
		return enc.Encode(supported())
	}
}

// supported describes this runtime (OCI runtime specification, features.md).
func supported() *features.Features {
	yes := true
	f := &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         configs.KnownHookNames(),
		MountOptions:  specconv.KnownMountOptions(),
		Annotations: map[string]string{
			annotationVersion:                            version.Version,
			annotationLibcontainer:                       libcontainerVersion(),
			runcfeatures.AnnotationRuncCheckpointEnabled: "false",
		},
		PotentiallyUnsafeConfigAnnotations: []string{"bundle", "org.systemd.property."},
		Linux: &features.Linux{
			Namespaces:   specconv.KnownNamespaces(),
			Capabilities: capabilities.KnownCapabilities(),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes},
			Apparmor:     &features.Apparmor{Enabled: &yes},
			Selinux:      &features.Selinux{Enabled: &yes},
			IntelRdt:     &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy: &features.MemoryPolicy{
				Modes: specconv.KnownMemoryPolicyModes(),
				Flags: specconv.KnownMemoryPolicyFlags(),
			},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
	}
	if seccomp.Enabled {
		f.Annotations[runcfeatures.AnnotationLibseccompVersion] = libseccompVersion()
		f.Linux.Seccomp = &features.Seccomp{
			Enabled:        &yes,
			Actions:        seccomp.KnownActions(),
			Operators:      seccomp.KnownOperators(),
			Archs:          seccomp.KnownArchs(),
			KnownFlags:     seccomp.KnownFlags(),
			SupportedFlags: seccomp.SupportedFlags(),
		}
	}
	return f
}
