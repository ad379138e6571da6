// Package inject answers HOW DOES A POD GET ITS SIDECAR: a pure function from what a team wrote to what runs in the mesh.
// The team's containers stay as they are, but for their hosts file and for probes, which capture would refuse.
//
// A pod is plain data here, as YAML has it: what this package does not know stays. That the result is what Kubernetes takes
// is tested in deploy/, against its own types. It imports identity/meshname and the standard library.
package inject

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// Annotation is what a pod says who wants a sidecar: "true".
const Annotation = "tenantmesh.dev/inject"

// UID is the user of a sidecar and its Envoy, in every form of deployment.
const UID = 1337

// Names of what is added.
const (
	containerHosts   = "tenantmesh-hosts"
	containerCapture = "tenantmesh-capture"
	containerSidecar = "tenantmesh-sidecar"
	volumeData       = "tenantmesh-data"
	volumeAPI        = "tenantmesh-workload-api"

	dataDir   = "/var/lib/tenantmesh-sidecar"
	hostsFile = dataDir + "/hosts"
)

// Options say what sidecars are like.
type Options struct {
	Control      string // host:port of the control plane's xDS; several with commas between
	SidecarImage string
	CaptureImage string // holds nft, and cp
	CSIDriver    string // of the SPIFFE Workload API
	Socket       string // its file
	ServicePort  int    // 0: the Workload's
	// ExcludeInboundPorts are those at which callers, probes too, reach the pod directly.
	ExcludeInboundPorts []int
	Drain               string // how long open requests have, such as "10s"
}

type object = map[string]any

// Manifest puts a sidecar into the pod of one manifest, whatever its kind, where the pod says that it wants one. injected is
// false where there was nothing to do; the manifest is changed in place. Every problem is returned at once.
func Manifest(manifest map[string]any, o Options) (injected bool, err error) {
	pod := podOf(manifest)
	if pod == nil || at(pod, "metadata", "annotations")[Annotation] != "true" {
		return false, nil
	}
	spec, ok := pod["spec"].(object)
	if !ok {
		return false, errors.New("the pod must have a spec")
	}
	return true, inject(spec, o)
}

// podOf is what has the pod's metadata and spec: a Pod, or the template in what makes pods; nil where there is none.
func podOf(manifest object) object {
	switch manifest["kind"] {
	case "Pod":
		return manifest
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job":
		return at(manifest, "spec", "template")
	case "CronJob":
		return at(manifest, "spec", "jobTemplate", "spec", "template")
	}
	return nil
}

// at follows a path; what is not there is empty.
func at(o object, path ...string) object {
	for _, key := range path {
		o, _ = o[key].(object)
	}
	return o
}

func list(o object, key string) []any {
	l, _ := o[key].([]any)
	return l
}

func inject(spec object, o Options) error {
	probe, problems := probes(spec, o)
	problems = append(problems, refuse(spec)...)
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	for _, container := range services(spec) {
		mounts := list(container, "volumeMounts")
		container["volumeMounts"] = append(mounts, object{"name": volumeData, "mountPath": "/etc/hosts", "subPath": "hosts", "readOnly": true})
	}
	spec["initContainers"] = append([]any{hosts(o), capture(o), sidecar(o, probe)}, list(spec, "initContainers")...)
	spec["volumes"] = append(list(spec, "volumes"),
		object{"name": volumeData, "emptyDir": object{}},
		object{"name": volumeAPI, "csi": object{"driver": o.CSIDriver, "readOnly": true}})
	return nil
}

// services are the containers that a team wrote, those that run first among them.
func services(spec object) []object {
	var found []object
	for _, c := range slices.Concat(list(spec, "initContainers"), list(spec, "containers")) {
		if container, ok := c.(object); ok {
			found = append(found, container)
		}
	}
	return found
}

// refuse names what would make a hole, or has been done.
func refuse(spec object) (problems []error) {
	if spec["hostNetwork"] == true {
		problems = append(problems, errors.New("hostNetwork must not be true: the rules would capture the whole node"))
	}
	refuseUser := func(what string, security object) {
		if isNumber(security["runAsUser"], UID) {
			problems = append(problems, fmt.Errorf("%s must not run as uid %d: that is the sidecar's, which is not captured", what, UID))
		}
	}
	refuseUser("the pod", at(spec, "securityContext"))
	for _, c := range services(spec) {
		name := fmt.Sprintf("container %v", c["name"])
		if slices.Contains([]any{containerHosts, containerCapture, containerSidecar}, c["name"]) {
			problems = append(problems, fmt.Errorf("%s is there already: inject into what the team wrote, not into what was injected", name))
			continue
		}
		security := at(c, "securityContext")
		refuseUser(name, security)
		added := list(at(security, "capabilities"), "add")
		for _, capability := range []string{"NET_ADMIN", "SYS_ADMIN", "ALL"} {
			if slices.Contains(added, any(capability)) || slices.Contains(added, any("CAP_"+capability)) {
				problems = append(problems, fmt.Errorf("%s must not have the capability %s: it could take the rules away", name, capability))
			}
		}
		if security["privileged"] == true {
			problems = append(problems, fmt.Errorf("%s must not be privileged: it could take the rules away", name))
		}
		for _, m := range list(c, "volumeMounts") {
			if mount, ok := m.(object); ok && mount["mountPath"] == "/etc/hosts" {
				problems = append(problems, fmt.Errorf("%s must not mount /etc/hosts: the names that it may call are there", name))
			}
		}
	}
	return problems
}

// probes has the sidecar ask the service, for the kubelet, what the probes did: from another host nobody reaches the service
// itself. There is one path for that; "" is none. Probes at excluded ports, and commands, stay.
func probes(spec object, o Options) (path string, problems []error) {
	for _, container := range services(spec) {
		for _, kind := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
			probe := at(container, kind)
			where := fmt.Sprintf("container %v: %s", container["name"], kind)
			for _, form := range []string{"httpGet", "tcpSocket", "grpc"} {
				target := at(probe, form)
				if target == nil || slices.ContainsFunc(o.ExcludeInboundPorts, func(port int) bool { return isNumber(target["port"], port) }) {
					continue
				}
				asked, _ := target["path"].(string)
				if asked == "" {
					asked = "/"
				}
				switch {
				case form != "httpGet" || target["scheme"] == "HTTPS":
					problems = append(problems, fmt.Errorf("%s must be HTTP, or a command, or at an excluded port: a caller without a certificate is not let in", where))
				case strings.ContainsAny(asked, "?# "):
					problems = append(problems, fmt.Errorf("%s must ask for a path without a query (got %q)", where, asked))
				case path != "" && path != asked:
					problems = append(problems, fmt.Errorf("%s must ask for the path of the others, %q, or at an excluded port (got %q)", where, path, asked))
				default:
					path = asked
					probe[form] = object{"path": "/probe", "port": meshname.PortHealth}
				}
			}
		}
	}
	return path, problems
}

// isNumber: YAML's and JSON's decoders have several kinds of numbers.
func isNumber(value any, n int) bool { return value != nil && fmt.Sprint(value) == strconv.Itoa(n) }

// hosts copies the pod's own hosts file, which is the kubelet's, to where the sidecar may write.
func hosts(o Options) object {
	return object{
		"name": containerHosts, "image": o.CaptureImage, "command": []any{"/bin/cp", "/etc/hosts", hostsFile},
		"securityContext": confined(UID), "volumeMounts": []any{dataMount()},
	}
}

// capture runs as root, because a container that is not root's gets no capability that it could use.
func capture(o Options) object {
	args := []any{"install", "--uid=" + strconv.Itoa(UID)}
	if len(o.ExcludeInboundPorts) > 0 {
		var ports []string
		for _, port := range o.ExcludeInboundPorts {
			ports = append(ports, strconv.Itoa(port))
		}
		args = append(args, "--exclude-inbound-ports="+strings.Join(ports, ","))
	}
	security := confined(0)
	security["runAsNonRoot"] = false
	at(security, "capabilities")["add"] = []any{"NET_ADMIN"}
	return object{"name": containerCapture, "image": o.CaptureImage, "args": args, "securityContext": security}
}

// sidecar is a native one: it starts before the team's containers, which wait until it is ready, and ends after them.
func sidecar(o Options, probe string) object {
	args := []any{
		"--control=" + o.Control, "--workload-api=unix:///run/spiffe/" + o.Socket, "--address=$(POD_IP)",
		"--capture", "--hosts-file=" + hostsFile, "--drain=" + o.Drain,
	}
	if o.ServicePort != 0 {
		args = append(args, "--service-port="+strconv.Itoa(o.ServicePort))
	}
	if probe != "" {
		args = append(args, "--probe-path="+probe)
	}
	ask := func(path string, more object) object {
		more["httpGet"] = object{"path": path, "port": meshname.PortHealth}
		return more
	}
	return object{
		"name": containerSidecar, "image": o.SidecarImage, "args": args, "restartPolicy": "Always",
		"env": []any{object{"name": "POD_IP", "valueFrom": object{"fieldRef": object{"fieldPath": "status.podIP"}}}},
		"ports": []any{
			object{"name": "tm-inbound", "containerPort": meshname.PortInbound}, object{"name": "tm-health", "containerPort": meshname.PortHealth},
			object{"name": "tm-metrics", "containerPort": meshname.PortMetrics},
		},
		"startupProbe":    ask("/readyz", object{"periodSeconds": 1, "failureThreshold": 600}),
		"readinessProbe":  ask("/readyz", object{"periodSeconds": 2}),
		"livenessProbe":   ask("/livez", object{"periodSeconds": 10, "failureThreshold": 6}),
		"securityContext": confined(UID),
		"volumeMounts":    []any{dataMount(), object{"name": volumeAPI, "mountPath": "/run/spiffe", "readOnly": true}},
	}
}

func dataMount() object { return object{"name": volumeData, "mountPath": dataDir} }

// confined is what a container of the mesh may: nothing but be that user.
func confined(uid int) object {
	return object{
		"runAsUser": uid, "runAsGroup": uid, "runAsNonRoot": true, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
		"capabilities": object{"drop": []any{"ALL"}}, "seccompProfile": object{"type": "RuntimeDefault"},
	}
}
