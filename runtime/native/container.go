package native

import (
	"errors"
	"os"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"

	// The cgroup managers leave device rules to this package.
	_ "github.com/opencontainers/cgroups/devices"
)

var errEmptyID = errors.New("container id cannot be empty")

// newLibcontainer registers a new container; its first process makes it.
func newLibcontainer(g *globals, id string, spec *specs.Spec, noPivot, noKeyring bool) (*libcontainer.Container, error) {
	rootless, err := rootlessCgroups(g)
	if err != nil {
		return nil, err
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       id,
		UseSystemdCgroup: g.systemdCgroup,
		NoPivotRoot:      noPivot,
		NoNewKeyring:     noKeyring,
		Spec:             spec,
		RootlessEUID:     os.Geteuid() != 0,
		RootlessCgroups:  rootless,
	})
	if err != nil {
		return nil, err
	}
	poststart := config.Hooks[configs.Poststart]
	delete(config.Hooks, configs.Poststart)
	container, err := libcontainer.Create(g.root, id, config)
	if err != nil {
		return nil, err
	}
	return container, savePoststart(g, id, poststart)
}

// load finds a container that exists. The error is
// libcontainer.ErrNotExist if there is none.
func load(g *globals, id string) (*libcontainer.Container, error) {
	if id == "" {
		return nil, errEmptyID
	}
	return libcontainer.Load(g.root, id)
}

// loadWithStatus also gives its status.
func loadWithStatus(g *globals, id string) (*libcontainer.Container, libcontainer.Status, error) {
	container, err := load(g, id)
	if err != nil {
		return nil, 0, err
	}
	status, err := container.Status()
	return container, status, err
}
