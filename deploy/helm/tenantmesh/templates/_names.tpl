{{- define "tenantmesh.labels" -}}
app.kubernetes.io/part-of: tenantmesh
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Each control plane by its own name: one of them divides limits, and a sidecar looks for it. */}}
{{- define "tenantmesh.controls" -}}
{{- $addresses := list }}
{{- range $i := until (int .Values.control.replicas) }}
{{- $addresses = append $addresses (printf "%s-control-%d.%s-control.%s.svc:15010" $.Release.Name $i $.Release.Name $.Release.Namespace) }}
{{- end }}
{{- join "," $addresses }}
{{- end }}

{{- define "tenantmesh.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "tenantmesh.workloadAPI" -}}
name: workload-api
csi: {driver: {{ .Values.spiffe.csiDriver | quote }}, readOnly: true}
{{- end }}
