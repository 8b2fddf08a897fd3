package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"gracerun.io/internal/crinode"
)

// nodeName is how the API server knows the one node there is.
const nodeName = "node"

// A cluster is a node with a kubelet, and the API server that it asks, in the
// namespaces of a crinode. There is no scheduler and no controller manager: pods
// name their node.
type cluster struct {
	*crinode.Node
	services []*service
	kubelet  *service
}

// A service is a program that runs until it is ended.
type service struct {
	name string
	cmd  *exec.Cmd
	dead chan struct{}
	log  string
}

func (c *cluster) serve(program string, args ...string) (*service, error) {
	s := &service{name: program, log: filepath.Join(c.Dir, program+".log"), dead: make(chan struct{})}
	log, err := os.OpenFile(s.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s.cmd = c.Command(context.Background(), filepath.Join(c.Programs.Dir, program), args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = s.cmd.Wait(); close(s.dead) }()
	return s, nil
}

func (s *service) end(sig syscall.Signal) {
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.dead:
	case <-time.After(time.Minute):
		_ = s.cmd.Process.Kill()
		<-s.dead
	}
}

// lastWords is the end of what a service has said.
func (s *service) lastWords() string {
	text, _ := os.ReadFile(s.log)
	return fmt.Sprintf("%s: %s", s.name, text[max(0, len(text)-1500):])
}

// start starts all that a cluster needs over the node's CRI-O, and waits until the
// node is ready.
func start(n *crinode.Node) (c *cluster, err error) {
	c = &cluster{Node: n}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := c.writeKeys(); err != nil {
		return nil, err
	}
	etcd, err := c.serve("etcd", "--data-dir", c.Dir+"/etcd", "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380")
	if err != nil {
		return nil, err
	}
	c.services = append(c.services, etcd)
	api, err := c.serve("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--authorization-mode=AlwaysAllow",
		"--token-auth-file="+c.Dir+"/tokens", "--endpoint-reconciler-type=none", "--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1", "--service-cluster-ip-range=10.96.0.0/16", "--secure-port=6443",
		"--tls-cert-file="+c.Dir+"/cert.pem", "--tls-private-key-file="+c.Dir+"/key.pem", "--cert-dir="+c.Dir+"/api",
		"--service-account-issuer=https://127.0.0.1:6443", "--service-account-key-file="+c.Dir+"/sa.pub",
		"--service-account-signing-key-file="+c.Dir+"/sa.key",
		"--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,DefaultStorageClass,RuntimeClass,CertificateApproval,"+
			"CertificateSigning,CertificateSubjectRestriction,ValidatingAdmissionWebhook,MutatingAdmissionWebhook")
	if err != nil {
		return nil, err
	}
	c.services = append(c.services, api)
	if err := c.until("the API server is ready", func() bool { return c.kubectl("get", "--raw", "/readyz").err == nil }); err != nil {
		return nil, fmt.Errorf("%w: %s", err, api.lastWords())
	}
	if err := c.startKubelet(); err != nil {
		return nil, err
	}
	err = c.until("the node is ready", func() bool {
		return c.kubectl("get", "node", nodeName, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`).out == "True"
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, c.kubelet.lastWords())
	}
	return c, nil
}

func (c *cluster) startKubelet() (err error) {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		parents, _ := filepath.Glob(root + "/cgroup.procs")
		for _, parent := range parents {
			if err := os.MkdirAll(filepath.Dir(parent)+c.Cgroup, 0o755); err != nil {
				return err
			}
		}
	}
	copyCpuset(c.Cgroup)
	config := fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%[1]s
staticPodPath: %[2]s/static
cgroupRoot: %[3]s
cgroupsPerQOS: false
enforceNodeAllocatable: []
cgroupDriver: cgroupfs
failCgroupV1: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
failSwapOn: false
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
nodeStatusUpdateFrequency: 2s
syncFrequency: 2s
fileCheckFrequency: 1s
address: 127.0.0.1
`, c.Socket(), c.Dir, c.Cgroup)
	if err := os.MkdirAll(c.Dir+"/static", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(c.Dir+"/kubelet.yaml", []byte(config), 0o644); err != nil {
		return err
	}
	c.kubelet, err = c.serve("kubelet", "--config", c.Dir+"/kubelet.yaml", "--kubeconfig", c.Dir+"/kubeconfig", "--root-dir", c.Dir+"/kubelet",
		"--hostname-override", nodeName, "--node-ip", "127.0.0.1", "--cert-dir", c.Dir+"/pki")
	return err
}

// copyCpuset gives version 1's cpuset of the cgroup what its parent has: without it
// nothing can be put there.
func copyCpuset(cgroup string) {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		if text, err := os.ReadFile("/sys/fs/cgroup/cpuset/" + name); err == nil {
			_ = os.WriteFile("/sys/fs/cgroup/cpuset"+cgroup+"/"+name, text, 0o644)
		}
	}
}

func (c *cluster) writeKeys() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gracerun test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	block := func(kind string, data []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
	}
	for name, text := range map[string]string{
		"key.pem": block("EC PRIVATE KEY", private), "cert.pem": block("CERTIFICATE", certificate),
		"sa.key": block("EC PRIVATE KEY", private), "sa.pub": block("PUBLIC KEY", public),
		"tokens": `tok,admin,1,"system:masters"` + "\n",
		"kubeconfig": fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority: %s/cert.pem}}]
users: [{name: u, user: {token: tok}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
`, c.Dir),
	} {
		if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// An answer is what a call of kubectl has said.
type answer struct {
	out, said string
	err       error
}

func (c *cluster) kubectl(args ...string) answer { return c.kubectlWith("", args...) }

func (c *cluster) kubectlWith(input string, args ...string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), crinode.Patience)
	defer cancel()
	cmd := c.Command(ctx, c.Programs.Dir+"/kubectl", append([]string{"--kubeconfig", c.Dir + "/kubeconfig", "--cache-dir", c.Dir + "/cache"}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &said
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return answer{out.String(), said.String(), err}
}

func (c *cluster) until(what string, holds func() bool) error {
	for deadline := time.Now().Add(crinode.Patience); !holds(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: waited in vain until %s", c.Stack.Name, what)
		}
	}
	return nil
}

// close ends everything.
func (c *cluster) close() error {
	if c.kubelet != nil {
		c.kubelet.end(syscall.SIGTERM)
	}
	for i := len(c.services) - 1; i >= 0; i-- {
		c.services[i].end(syscall.SIGTERM)
	}
	err := c.Node.Close()
	// The kubelet's mounts are the node's own; its cgroups are not.
	for _, cgroup := range c.Cgroups() {
		if removed := os.Remove(cgroup); removed != nil && !errors.Is(removed, os.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}
	return err
}

// on does something on all clusters at once.
func on(all []*cluster, do func(c *cluster) error) error {
	var wait sync.WaitGroup
	errs := make([]error, len(all))
	for i, c := range all {
		wait.Go(func() {
			if err := do(c); err != nil {
				errs[i] = fmt.Errorf("%s: %w", c.Stack.Name, err)
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}
