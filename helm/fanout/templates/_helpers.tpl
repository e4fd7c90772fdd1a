{{- define "fanout.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "fanout.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "fanout.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "fanout.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "fanout.selector" -}}
app.kubernetes.io/name: {{ include "fanout.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fanout.labels" -}}
{{ include "fanout.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end -}}

{{- define "fanout.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "fanout.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "fanout.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "fanout.authSecretName" -}}
{{ .Values.auth.existingSecret | default (printf "%s-auth" (include "fanout.fullname" .)) }}
{{- end -}}

{{/* An address: from a Secret that exists, else from the value. Call with (dict "name" "FANOUT_LOG" "from" .Values.log). */}}
{{- define "fanout.addressEnv" -}}
- name: {{ .name }}
  {{- if .from.existingSecret.name }}
  valueFrom:
    secretKeyRef:
      name: {{ .from.existingSecret.name }}
      key: {{ .from.existingSecret.key }}
  {{- else }}
  value: {{ .from.url | quote }}
  {{- end }}
{{- end -}}

{{/* What no schema can say: sums over values. Included by the ConfigMap, which is always rendered. */}}
{{- define "fanout.check" -}}
{{- $v := .Values -}}
{{- if not (or $v.log.url $v.log.existingSecret.name) -}}
{{- fail "log.url or log.existingSecret.name is needed: kafka://host:port[,host:port]" -}}
{{- end -}}
{{- if not (or $v.store.url $v.store.existingSecret.name) -}}
{{- fail "store.url or store.existingSecret.name is needed: redis://host:port" -}}
{{- end -}}
{{- if not (or $v.auth.appsSecret.name $v.auth.existingSecret (and $v.auth.apiKey $v.auth.tokenSecret)) -}}
{{- fail "auth.existingSecret, or auth.apiKey with auth.tokenSecret, or auth.appsSecret.name is needed: the engine does not start without keys" -}}
{{- end -}}
{{- $gateways := $v.gateway.replicas -}}
{{- if $v.gateway.autoscaling.enabled -}}
{{- $gateways = $v.gateway.autoscaling.maxReplicas -}}
{{- end -}}
{{- if gt (mul $gateways $v.gateway.processes) 256 -}}
{{- fail (printf "gateway: %d pods of %d processes need more than the 256 chunk slots" (int $gateways) (int $v.gateway.processes)) -}}
{{- end -}}
{{- if gt (add (mul $gateways $v.gateway.processes) (mul $v.sender.replicas $v.sender.processes)) 1024 -}}
{{- fail "gateway and sender: together more processes than the 1,024 id nodes" -}}
{{- end -}}
{{- if gt (mul $v.worker.replicas $v.worker.processes) 64 -}}
{{- fail (printf "worker: %d pods of %d processes, but messages has 64 partitions: the rest would idle" (int $v.worker.replicas) (int $v.worker.processes)) -}}
{{- end -}}
{{- range $role := list "sender" "worker" "gateway" -}}
{{- $r := index $v $role -}}
{{- if lt (int $r.terminationGracePeriodSeconds) (add $r.preStopSeconds $r.drainSeconds 5) -}}
{{- fail (printf "%s: terminationGracePeriodSeconds must be at least preStopSeconds + drainSeconds + 5, or the drain is killed" $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The pods of one role. Call with (dict "root" $ "role" "sender"). */}}
{{- define "fanout.podSpec" -}}
{{- $v := .root.Values -}}
{{- $r := index $v .role -}}
serviceAccountName: {{ include "fanout.serviceAccountName" .root }}
automountServiceAccountToken: false
# A Service called "fanout" would otherwise put FANOUT_PORT=tcp://… into every pod, which is the name of a flag.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $r.terminationGracePeriodSeconds }}
{{- with $v.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $v.podSecurityContext | nindent 2 }}
  {{- with $r.sysctls }}
  sysctls: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- with $r.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $r.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $r.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- if $r.topologySpreadConstraints }}
  {{- toYaml $r.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "fanout.selector" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .role }}
  {{- end }}
containers:
  - name: {{ .role }}
    image: {{ include "fanout.image" .root }}
    imagePullPolicy: {{ $v.image.pullPolicy }}
    args: [serve]
    envFrom:
      - configMapRef:
          name: {{ include "fanout.fullname" .root }}
    env:
      - name: FANOUT_ROLES
        value: {{ .role }}
      - name: FANOUT_PROCESSES
        value: {{ $r.processes | quote }}
      {{- include "fanout.addressEnv" (dict "name" "FANOUT_LOG" "from" $v.log) | nindent 6 }}
      {{- include "fanout.addressEnv" (dict "name" "FANOUT_STORE" "from" $v.store) | nindent 6 }}
      {{- if $v.auth.appsSecret.name }}
      - name: FANOUT_APPS
        value: /etc/fanout/{{ $v.auth.appsSecret.key }}
      {{- else }}
      - name: FANOUT_API_KEY
        valueFrom:
          secretKeyRef:
            name: {{ include "fanout.authSecretName" .root }}
            key: {{ $v.auth.apiKeyKey }}
      - name: FANOUT_TOKEN_SECRET
        valueFrom:
          secretKeyRef:
            name: {{ include "fanout.authSecretName" .root }}
            key: {{ $v.auth.tokenSecretKey }}
      {{- end }}
      {{- if eq .role "gateway" }}
      - name: POD_IP
        valueFrom:
          fieldRef: {fieldPath: status.podIP}
      - name: FANOUT_ADDRESS
        value: $(POD_IP):8000
      - name: FANOUT_DEFLATE
        value: {{ $r.deflate | quote }}
      - name: FANOUT_CONNECTS_PER_S
        value: {{ $r.connectsPerSecond | quote }}
      - name: FANOUT_DRAIN_S
        value: {{ $r.drainSeconds | quote }}
      {{- with $r.origins }}
      - name: FANOUT_ORIGINS
        value: {{ join "," . | quote }}
      {{- end }}
      {{- end }}
      {{- with $v.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - name: http
        containerPort: 8000
        protocol: TCP
    # Started = the process answers. Ready also asks for the log and the store, and falls while it drains.
    startupProbe:
      httpGet: {path: /healthz, port: http}
      periodSeconds: {{ $v.probes.periodSeconds }}
      timeoutSeconds: {{ $v.probes.timeoutSeconds }}
      failureThreshold: {{ $v.probes.startupFailureThreshold }}
    livenessProbe:
      httpGet: {path: /healthz, port: http}
      periodSeconds: {{ $v.probes.periodSeconds }}
      timeoutSeconds: {{ $v.probes.timeoutSeconds }}
      failureThreshold: {{ $v.probes.failureThreshold }}
    readinessProbe:
      httpGet: {path: /readyz, port: http}
      periodSeconds: {{ $v.probes.periodSeconds }}
      timeoutSeconds: {{ $v.probes.timeoutSeconds }}
      failureThreshold: {{ $v.probes.failureThreshold }}
    {{- if $r.preStopSeconds }}
    lifecycle:
      preStop:
        exec:
          command: [sleep, {{ $r.preStopSeconds | quote }}]
    {{- end }}
    securityContext: {{- toYaml $v.securityContext | nindent 6 }}
    resources: {{- toYaml $r.resources | nindent 6 }}
    volumeMounts:
      - name: tmp # the processes of a pod share their metrics in files
        mountPath: /tmp
      {{- if $v.auth.appsSecret.name }}
      - name: apps
        mountPath: /etc/fanout
        readOnly: true
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  {{- if $v.auth.appsSecret.name }}
  - name: apps
    secret:
      secretName: {{ $v.auth.appsSecret.name }}
      items:
        - key: {{ $v.auth.appsSecret.key }}
          path: {{ $v.auth.appsSecret.key }}
  {{- end }}
{{- end -}}
