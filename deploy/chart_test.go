// Package deploy holds the chart, what is injected into pods, and the images' Dockerfile against the real readers of each:
// Helm's engine, Kubernetes' types, BuildKit's parser, and the programs whose flags they name.
//
// It is a module of its own: what these readers link is ten times what tenantmesh does, and no program of it needs them.
package deploy

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/txtar"
	goyaml "gopkg.in/yaml.v3"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const chart = "helm/tenantmesh"

// bin is where the programs are, as they are now.
var bin string

var build = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", bin+"/", "./cmd/tenantmesh", "./cmd/tenantmesh-sidecar")
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errors.New(string(out))
	}
	return nil
})

func TestMain(m *testing.M) {
	var err error
	if bin, err = os.MkdirTemp("", "deploy-bin-"); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(bin)
	os.Exit(code)
}

// known asks a program itself: it names the first flag that it does not know before it comes to --help.
func known(t *testing.T, where string, command []string) {
	t.Helper()
	check(t, build())
	args := slices.Clone(command[1:])
	for i, arg := range args {
		args[i] = strings.ReplaceAll(arg, "$(POD_IP)", "10.0.0.1")
	}
	out, err := exec.Command(filepath.Join(bin, filepath.Base(command[0])), append(args, "--help")...).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %s: %v: %s", where, strings.Join(command, " "), err, out)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// render renders the chart, as `helm template` does, with its values' schema held.
func render(values string) (map[string]string, error) {
	loaded, err := loader.LoadDir(chart)
	if err != nil {
		return nil, err
	}
	given := map[string]any{}
	if err := yaml.Unmarshal([]byte(values), &given); err != nil {
		return nil, err
	}
	all, err := chartutil.ToRenderValues(loaded, given, chartutil.ReleaseOptions{Name: "tenantmesh", Namespace: "mesh", IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	return engine.Render(loaded, all)
}

// kinds are Kubernetes' own types.
var kinds = map[string]func() any{
	"v1/ServiceAccount":             func() any { return &core.ServiceAccount{} },
	"v1/Service":                    func() any { return &core.Service{} },
	"v1/Pod":                        func() any { return &core.Pod{} },
	"policy/v1/PodDisruptionBudget": func() any { return &policy.PodDisruptionBudget{} },
	"apps/v1/StatefulSet":           func() any { return &apps.StatefulSet{} },
	"apps/v1/Deployment":            func() any { return &apps.Deployment{} },
	"batch/v1/CronJob":              func() any { return &batch.CronJob{} },
}

// decode reads manifests strictly: a field that Kubernetes does not know, or a value of another type, is an error.
func decode(t *testing.T, where, text string) (objects []any) {
	t.Helper()
	decoder := goyaml.NewDecoder(strings.NewReader(text))
	for {
		var document map[string]any
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatalf("%s: %v: %s", where, err, text)
		}
		if document == nil {
			continue
		}
		plain, err := json.Marshal(document)
		check(t, err)
		apiVersion, _ := document["apiVersion"].(string)
		kind, _ := document["kind"].(string)
		make, ok := kinds[apiVersion+"/"+kind]
		if !ok {
			t.Errorf("%s: %s/%s is no kind that is known here", where, apiVersion, kind)
			continue
		}
		object := make()
		wrong, err := kjson.UnmarshalStrict(plain, object)
		if err := errors.Join(append(wrong, err)...); err != nil {
			t.Errorf("%s: %s: %v", where, kind, err)
		}
		objects = append(objects, object)
	}
}

// pods are the pods of objects, by the object's name.
func pods(objects []any) map[string]core.PodSpec {
	found := map[string]core.PodSpec{}
	for _, o := range objects {
		switch o := o.(type) {
		case *core.Pod:
			found[o.Name] = o.Spec
		case *apps.StatefulSet:
			found[o.Name] = o.Spec.Template.Spec
		case *apps.Deployment:
			found[o.Name] = o.Spec.Template.Spec
		case *batch.CronJob:
			found[o.Name] = o.Spec.JobTemplate.Spec.Template.Spec
		}
	}
	return found
}

// programOf is the entry point of an image, by its name.
var programOf = map[string][]string{
	"tenantmesh/control": {"tenantmesh"}, "tenantmesh/sidecar": {"tenantmesh-sidecar"}, "tenantmesh/capture": {"tenantmesh-sidecar", "capture"},
}

// conforms holds what every pod of the mesh must be: known flags, no privilege but what is named, volumes that are there.
func conforms(t *testing.T, where string, spec core.PodSpec) {
	t.Helper()
	volumes := map[string]bool{"data": true} // of a claim template
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s: container %s mounts %s, which is no volume", where, c.Name, m.Name)
			}
		}
		image, _, _ := strings.Cut(c.Image, ":")
		program, ours := programOf[image]
		if !ours {
			continue
		}
		if len(c.Command) == 0 {
			known(t, where+": "+c.Name, slices.Concat(program, c.Args))
		}
		security := c.SecurityContext
		if security == nil || security.AllowPrivilegeEscalation == nil || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem || !slices.Equal(security.Capabilities.Drop, []core.Capability{"ALL"}) {
			t.Errorf("%s: container %s may do more than it must: %+v", where, c.Name, security)
			continue
		}
		var want []core.Capability
		if c.Name == "tenantmesh-capture" {
			want = []core.Capability{"NET_ADMIN"}
		}
		if !slices.Equal(security.Capabilities.Add, want) {
			t.Errorf("%s: container %s adds %v, want %v", where, c.Name, security.Capabilities.Add, want)
		}
	}
}

const everything = `
trustDomain: prod.example
images: {control: "tenantmesh/control:1.2.3", sidecar: "tenantmesh/sidecar:1.2.3"}
control:
  replicas: 3
  etcd: {endpoints: ["https://etcd-0:2379", "https://etcd-1:2379"], tlsSecret: etcd-client}
  storage: {size: 50Gi, className: fast}
  operators: ["spiffe://prod.example/operator/*"]
  auditors: ["spiffe://prod.example/auditor/*"]
  sidecars: ["spiffe://prod.example/**"]
  jwksHosts: [login.example.org]
  flags: [--audit-keep=100, --lease=20s]
gateway: {enabled: true, flags: [--max-grant-age=2m]}
`

// TestChart: what is rendered is what Kubernetes takes and the programs know, with the values that there are by default and
// with all of them.
func TestChart(t *testing.T) {
	for name, c := range map[string]struct {
		values string
		want   []string
	}{
		"defaults": {"", []string{"tenantmesh-control"}},
		"all":      {everything, []string{"tenantmesh-control", "tenantmesh-gateway"}},
		"gateway":  {"gateway: {enabled: true}", []string{"tenantmesh-control", "tenantmesh-gateway"}},
	} {
		t.Run(name, func(t *testing.T) {
			files, err := render(c.values)
			check(t, err)
			found := map[string]core.PodSpec{}
			for file, text := range files {
				if strings.HasSuffix(file, ".txt") {
					if !strings.Contains(text, "tenantmesh inject") {
						t.Errorf("the notes are %s", text)
					}
					continue
				}
				for name, spec := range pods(decode(t, file, text)) {
					found[name] = spec
					conforms(t, name, spec)
				}
			}
			for _, name := range c.want {
				if _, ok := found[name]; !ok {
					t.Errorf("%s is not rendered", name)
				}
			}
			if len(found) != len(c.want) {
				t.Errorf("%d pods are rendered, want %d", len(found), len(c.want))
			}
			for _, spec := range found {
				if !*spec.SecurityContext.RunAsNonRoot || *spec.AutomountServiceAccountToken {
					t.Errorf("a pod of the mesh has more than it needs: %+v", spec.SecurityContext)
				}
			}
			if gateway, ok := found["tenantmesh-gateway"]; ok && *gateway.SecurityContext.RunAsUser != 1337 {
				t.Errorf("the gateway runs as %d", *gateway.SecurityContext.RunAsUser)
			}
		})
	}
}

// TestControlsAreNamed: sidecars look for the one control plane that divides limits, so that one name for all of them would
// not do.
func TestControlsAreNamed(t *testing.T) {
	files, err := render(everything)
	check(t, err)
	want := "--control=tenantmesh-control-0.tenantmesh-control.mesh.svc:15010,tenantmesh-control-1.tenantmesh-control.mesh.svc:15010,tenantmesh-control-2.tenantmesh-control.mesh.svc:15010"
	if text := files["tenantmesh/templates/gateway.yaml"]; !strings.Contains(text, want) {
		t.Errorf("the gateway has not %s: %s", want, text)
	}
}

// TestValues: the schema refuses what would be rendered, and not work.
func TestValues(t *testing.T) {
	for values, want := range map[string]string{
		"trustDomain: Mesh Example":                          "/trustDomain",
		"trustDomain: ''":                                    "/trustDomain",
		"control: {replicas: 3}":                             "/control/replicas",
		"control: {replicas: 0}":                             "/control/replicas",
		"control: {replica: 1}":                              "replica",
		"control: {flags: [lease=20s]}":                      "/control/flags/0",
		"control: {operators: ['https://a.example/b']}":      "/control/operators/0",
		"control: {storage: {size: 10}}":                     "/control/storage/size",
		"images: {control: 'tenantmesh/control'}":            "/images/control",
		"images: {sidecar: 'tenantmesh/sidecar@sha256:abc'}": "/images/sidecar",
		"images: {pullPolicy: Sometimes}":                    "/images/pullPolicy",
		"spiffe: {socket: ../agent.sock}":                    "/spiffe/socket",
		"gateway: {service: {type: ExternalName}}":           "/gateway/service/type",
		"gateway: {service: {port: 70000}}":                  "/gateway/service/port",
		"gateways: {enabled: true}":                          "gateways",
	} {
		if _, err := render(values); err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), ".", "/"), want) {
			t.Errorf("%s: want an error at %s: %v", values, want, err)
		}
	}
	if _, err := render("images: {control: 'registry.example:5000/tenantmesh/control@sha256:" + strings.Repeat("0a", 32) + "'}"); err != nil {
		t.Errorf("an image by its digest: %v", err)
	}
}

// TestInjected: what `tenantmesh inject` makes of pods is what Kubernetes takes, and the programs know.
func TestInjected(t *testing.T) {
	files, err := filepath.Glob("../cmd/tenantmesh/inject/testdata/*.txtar")
	check(t, err)
	injected := 0
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		check(t, err)
		for _, f := range archive.Files {
			if f.Name != "output.yaml" || len(f.Data) == 0 {
				continue
			}
			for name, spec := range pods(decode(t, file, string(f.Data))) {
				injected++
				conforms(t, name, spec)
				var order []string
				for _, c := range spec.InitContainers[:3] {
					order = append(order, c.Name)
				}
				if !slices.Equal(order, []string{"tenantmesh-hosts", "tenantmesh-capture", "tenantmesh-sidecar"}) {
					t.Errorf("%s: the order is %q", name, order)
				}
				sidecar := spec.InitContainers[2]
				if sidecar.RestartPolicy == nil || *sidecar.RestartPolicy != core.ContainerRestartPolicyAlways || *sidecar.SecurityContext.RunAsUser != 1337 || sidecar.StartupProbe == nil {
					t.Errorf("%s: the sidecar is no native one of uid 1337: %+v", name, sidecar)
				}
			}
		}
	}
	if injected < 2 {
		t.Errorf("%d goldens were injected", injected)
	}
}
