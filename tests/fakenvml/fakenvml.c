/* A libnvidia-ml.so.1 that simulates GPUs from a script, so that the unmodified nvidia-ml-py can be tested on any machine.
 *
 * The script is a text file named by FAKENVML_SCRIPT, read at the first nvmlInit. One statement per line, `#` starts a comment line:
 *
 *   driver_version 550.54.15        nvml_version 12.550.54.15      cuda_version 12040
 *   init_return 9                   what nvmlInit returns (0)      latency_us 20     added to every call
 *   epoch_ns 123                    CLOCK_MONOTONIC of t = 0; without it t counts from the reading of the script in each process
 *   device                          begins a GPU; what follows belongs to it
 *   name NVIDIA H100 PCIe           uuid GPU-...  vbios ...  serial ...  pci 00000000:65:00.0
 *   architecture 9                  compute_capability 9 0         memory_total_mib 81559
 *   limits_w 200 350 350            smallest, default and largest power limit
 *   thresholds_c 95 92 95 87        shutdown, slowdown, memory, GPU maximum
 *   mig 0   persistence 1   ecc 1   fans 0                         modes; 2 = not supported (mig, ecc)
 *   sensor instant T W lag delay phase noise_w lsb_w gain offset   the power sensor behind field 186 (seconds, watts)
 *   sensor average ...              the one behind field 185, with its own cached value
 *   power_usage average             which of them nvmlDeviceGetPowerUsage reads
 *   energy tick_s start_j integrator|readings rate                 the counter: integral of true power, or sum of instant readings
 *   ring 0.1                        period of the 119 driver-side samples
 *   scopes 0 2                      power scopes that fields 185 and 186 answer (0)
 *   process PID|self|parent MIB [T0 T1]
 *   work PID|self|parent T SM       a sample of utilisation by process: SM percent, taken at T; none newer is NOT_FOUND
 *   at T NAME VALUE                 piecewise-constant truth; NAME is one of profile_names below, VALUE may be hexadecimal
 *   live PATH                       a file with more points of power_w, appended while the test runs: u64 count, then {i64 CLOCK_MONOTONIC ns,
 *                                   f64 W}[]; write the point first and the count after it
 *   fault TARGET CODE [every N | first N | between T0 T1]    TARGET: a C function, field:ID, field:ID:SCOPE, or *
 *   slow TARGET US                  this call or field takes so much longer
 *   lost T                          every later call on this GPU returns GPU_IS_LOST
 *   stale T0 T1                     both power sensors repeat the reading of T0
 *   counter_reset T                 the energy counter starts again from zero
 *
 * fakenvml_reload() reads the script again and forgets counts; fakenvml_advance(s) moves t on without waiting; fakenvml_calls(name) counts
 * calls; fakenvml_initialised() is init minus shutdown.
 * Built with -DFAKENVML_OLD the library lacks the symbols that came after the 470 drivers.
 * A statement that cannot be read makes nvmlInit fail with 999 and a line on stderr.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
typedef unsigned int uint;

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15, VERSION_MISMATCH = 25, UNKNOWN = 999
};

/* ---- layouts (x86-64) ---- */

typedef union { double d; uint ui; unsigned long ul; unsigned long long ull; long long sll; int si; unsigned short us; } Value;
typedef struct { uint fieldId, scopeId; int64_t timestamp, latencyUsec; uint valueType; int nvmlReturn; Value value; } FieldValue;
typedef struct { unsigned long long timeStamp; Value value; } Sample;
typedef struct { uint pid; unsigned long long usedGpuMemory; uint gpuInstanceId, computeInstanceId; } ProcessInfo;
typedef struct { uint pid; unsigned long long timeStamp; uint smUtil, memUtil, encUtil, decUtil; } ProcessUtilizationSample;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { uint version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { uint gpu, memory; } Utilization;
typedef struct { char busIdLegacy[16]; uint domain, bus, device, pciDeviceId, pciSubSystemId; char busId[32]; } PciInfo;
typedef struct { uint version, sensorType; int temperature; } TemperatureV1;
typedef struct { uint version; int margin; } MarginV1;
typedef struct { unsigned long long referenceTime, violationTime; } ViolationTime;

_Static_assert(sizeof(Value) == 8, "nvmlValue_t");
_Static_assert(sizeof(FieldValue) == 40 && offsetof(FieldValue, nvmlReturn) == 28 && offsetof(FieldValue, value) == 32, "nvmlFieldValue_t");
_Static_assert(sizeof(Sample) == 16, "nvmlSample_t");
_Static_assert(sizeof(ProcessInfo) == 24 && offsetof(ProcessInfo, usedGpuMemory) == 8, "nvmlProcessInfo_v3");
_Static_assert(sizeof(ProcessUtilizationSample) == 32 && offsetof(ProcessUtilizationSample, smUtil) == 16, "nvmlProcessUtilizationSample_t");
_Static_assert(sizeof(Memory) == 24, "nvmlMemory_t");
_Static_assert(sizeof(MemoryV2) == 40 && offsetof(MemoryV2, used) == 32, "nvmlMemory_v2_t");
_Static_assert(sizeof(Utilization) == 8, "nvmlUtilization_t");
_Static_assert(sizeof(PciInfo) == 68 && offsetof(PciInfo, busId) == 36, "nvmlPciInfo_t");
_Static_assert(sizeof(TemperatureV1) == 12, "nvmlTemperature_v1");
_Static_assert(sizeof(MarginV1) == 8, "nvmlMarginTemperature_v1");
_Static_assert(sizeof(ViolationTime) == 16, "nvmlViolationTime_t");

/* ---- the simulated machine ---- */

static const char *const profile_names[] = {
    "power_w", "temperature_c", "memory_temperature_c", "graphics_clock_mhz", "sm_clock_mhz", "memory_clock_mhz", "video_clock_mhz",
    "performance_state", "utilisation_percent", "memory_utilisation_percent", "memory_used_mib", "event_reasons", "power_limit_w",
    "share_74", "share_75", "share_76", "share_77", "share_78", "share_79", "share_80", "share_81", "share_269", "share_270", "share_271",
};
enum {
    POWER, TEMPERATURE, MEMORY_TEMPERATURE, GRAPHICS_CLOCK, SM_CLOCK, MEMORY_CLOCK, VIDEO_CLOCK, P_STATE, UTILISATION, MEMORY_UTILISATION,
    MEMORY_USED, EVENT_REASONS, POWER_LIMIT, SHARE_74, SHARE_269 = SHARE_74 + 8, N_PROFILES = SHARE_269 + 3
};
_Static_assert(sizeof profile_names / sizeof *profile_names == N_PROFILES, "every profile has its name");

typedef struct { double *t, *v, *integral; size_t n, room; } Profile;
typedef struct { double period, window, lag, delay, phase, noise, lsb, gain, offset; uint64_t salt; } Sensor;
typedef struct { char target[64]; int code; long every, first; double from, to; long seen; } Fault;
typedef struct { char target[64]; long us; } Slow;
typedef struct { uint pid; double mib, from, to; } Process;
typedef struct { uint pid, sm; double t; unsigned long long stamp; } Work;
typedef struct { int64_t t_ns; double watt; } LivePoint;
typedef struct { uint64_t count; LivePoint point[]; } Live;

enum { MAX_DEVICES = 16, MAX_FAULTS = 64, MAX_SLOW = 32, MAX_PROCESSES = 16, MAX_WORK = 64, MAX_NAMES = 128, RING = 119 };

typedef struct {
    char name[96], uuid[96], serial[30], vbios[32], pci[32];
    uint index, architecture, mig, persistence, ecc, fans;
    int major, minor;
    double memory_total_mib, limits_w[3], thresholds_c[4];
    Profile profile[N_PROFILES];
    Sensor instant, average;
    int power_usage_is_average, counter_sums_readings, scope[4];
    double tick, start_j, rate, reset_t, lost_t, stale_from, stale_to, ring;
    double sum_j; long summed; /* readings the counter has added so far */
    Fault fault[MAX_FAULTS]; int n_faults;
    Slow slow[MAX_SLOW]; int n_slow;
    Process process[MAX_PROCESSES]; int n_processes;
    Work work[MAX_WORK]; int n_work;
    const Live *live; size_t live_room, live_seen;
} Device;

static struct {
    pthread_mutex_t lock;
    int loaded, initialised, init_return, n_devices;
    long latency_us;
    int64_t epoch_ns;
    char driver[80], nvml[80];
    int cuda;
    Device device[MAX_DEVICES];
    struct { const char *name; long n; } calls[MAX_NAMES];
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int64_t monotonic_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}
static int64_t realtime_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec * INT64_C(1000000) + ts.tv_nsec / 1000;
}
static double now_s(void) { return (monotonic_ns() - fake.epoch_ns) * 1e-9; }

/* ---- piecewise-constant truth ---- */

static int profile_add(Profile *p, double t, double v) {
    if (p->n && t < p->t[p->n - 1]) return 0; /* points come in the order of time */
    if (p->n == p->room) {
        p->room = p->room ? 2 * p->room : 16;
        p->t = realloc(p->t, p->room * sizeof *p->t);
        p->v = realloc(p->v, p->room * sizeof *p->v);
        p->integral = realloc(p->integral, p->room * sizeof *p->integral);
        if (!p->t || !p->v || !p->integral) abort();
    }
    p->integral[p->n] = p->n ? p->integral[p->n - 1] + p->v[p->n - 1] * (t - p->t[p->n - 1]) : 0;
    p->t[p->n] = t;
    p->v[p->n++] = v;
    return 1;
}
/* Last point at or before t; the first point also speaks for the time before it. */
static size_t profile_index(const Profile *p, double t) {
    size_t low = 0, high = p->n;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (p->t[middle] <= t) low = middle; else high = middle;
    }
    return low;
}
static double value_at(const Profile *p, double t) { return p->n ? p->v[profile_index(p, t)] : 0; }
static double integral_to(const Profile *p, double t) {
    if (!p->n) return 0;
    size_t i = profile_index(p, t);
    return p->integral[i] + p->v[i] * (t - p->t[i]);
}
/* First-order lag of the profile at t, exact between points; 40 time constants back it is in its steady state. */
static double lagged(const Profile *p, double tau, double t) {
    double at = t - 40 * tau, q = value_at(p, at);
    while (p->n && at < t) {
        size_t i = profile_index(p, at);
        double end = i + 1 < p->n && p->t[i + 1] < t ? p->t[i + 1] : t;
        q = p->v[i] + (q - p->v[i]) * exp(-(end - at) / tau);
        at = end;
    }
    return q;
}

/* ---- power sensors and the energy counter ---- */

static uint64_t mixed(uint64_t x) { /* splitmix64 */
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}
static double gauss(uint64_t salt, long k) { /* the same for the same reading, in every process */
    double u = (mixed(salt ^ mixed((uint64_t)k)) >> 11) * 0x1p-53 + 0x1p-54;
    double v = (mixed(salt ^ mixed((uint64_t)k ^ UINT64_C(0x5555))) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(2 * M_PI * v);
}
static double reading(const Device *d, const Sensor *s, long k) {
    const Profile *p = &d->profile[POWER];
    double b = s->phase + k * s->period - s->delay, a = b - s->window, y;
    if (s->lag > 0 && s->window > 0) /* the mean of the lagged power, from q' = (P - q) / lag */
        y = (integral_to(p, b) - integral_to(p, a) - s->lag * (lagged(p, s->lag, b) - lagged(p, s->lag, a))) / s->window;
    else if (s->lag > 0) y = lagged(p, s->lag, b);
    else if (s->window > 0) y = (integral_to(p, b) - integral_to(p, a)) / s->window;
    else y = value_at(p, b);
    y = s->offset + s->gain * y;
    if (s->noise > 0) y += s->noise * gauss(s->salt, k);
    y = s->lsb > 0 ? s->lsb * rint(y / s->lsb) : y;
    return y > 0 ? y : 0;
}
static double sensed(const Device *d, const Sensor *s, double t) {
    if (t >= d->stale_from && t < d->stale_to) t = d->stale_from;
    return reading(d, s, (long)floor((t - s->phase) / s->period));
}
static double counted(Device *d, double t) {
    if (!d->counter_sums_readings) return integral_to(&d->profile[POWER], t) - integral_to(&d->profile[POWER], 0);
    long k = (long)floor((t - d->instant.phase) / d->instant.period);
    if (k < d->summed) { d->summed = 0; d->sum_j = 0; }
    for (; d->summed < k; d->summed++) d->sum_j += reading(d, &d->instant, d->summed + 1) * d->instant.period;
    return d->sum_j;
}
static unsigned long long energy_mj(Device *d, double t) {
    if (d->tick > 0) t = floor(t / d->tick) * d->tick;
    double j = d->start_j + d->rate * counted(d, t);
    if (t >= d->reset_t) j = d->rate * (counted(d, t) - counted(d, d->reset_t));
    return j > 0 ? (unsigned long long)(j * 1e3) : 0;
}
static void take_live(Device *d) {
    if (!d->live) return;
    uint64_t count = __atomic_load_n(&d->live->count, __ATOMIC_ACQUIRE);
    for (; d->live_seen < count && d->live_seen < d->live_room; d->live_seen++) {
        const LivePoint *p = &d->live->point[d->live_seen];
        profile_add(&d->profile[POWER], (p->t_ns - fake.epoch_ns) * 1e-9, p->watt);
    }
}

/* ---- the script ---- */

static void device_defaults(Device *d, uint index) {
    const Sensor quick = {.period = 0.1, .window = 0.025, .gain = 1, .lsb = 0.001, .salt = 186 + 1000u * index};
    *d = (Device){.index = index, .architecture = 9, .major = 9, .persistence = 1, .ecc = 1, .memory_total_mib = 81559,
        .limits_w = {200, 350, 350}, .thresholds_c = {95, 92, 95, 87}, .instant = quick, .average = quick, .power_usage_is_average = 1,
        .scope = {1}, .tick = 0.1, .rate = 1, .reset_t = INFINITY, .lost_t = INFINITY, .stale_from = INFINITY, .stale_to = INFINITY,
        .ring = 0.1};
    d->average.window = 1;
    d->average.salt = 185 + 1000u * index;
    strcpy(d->name, "NVIDIA Fake GPU");
    snprintf(d->uuid, sizeof d->uuid, "GPU-00000000-0000-0000-0000-%012u", index);
    snprintf(d->pci, sizeof d->pci, "00000000:%02X:00.0", index + 1);
    strcpy(d->serial, "0");
    strcpy(d->vbios, "96.00.00.00.01");
}
static void device_free(Device *d) {
    for (int i = 0; i < N_PROFILES; i++) { free(d->profile[i].t); free(d->profile[i].v); free(d->profile[i].integral); }
    if (d->live) munmap((void *)d->live, sizeof(Live) + d->live_room * sizeof(LivePoint));
}
static int map_live(Device *d, const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (file < 0) return 0;
    if (fstat(file, &st) || st.st_size < (off_t)sizeof(Live)) { close(file); return 0; }
    d->live_room = (st.st_size - sizeof(Live)) / sizeof(LivePoint);
    void *at = mmap(NULL, sizeof(Live) + d->live_room * sizeof(LivePoint), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    d->live = at == MAP_FAILED ? NULL : at;
    return d->live != NULL;
}
static int read_fault(Device *d, const char *rest) {
    if (d->n_faults == MAX_FAULTS) return 0;
    Fault *f = &d->fault[d->n_faults++];
    *f = (Fault){.from = -INFINITY, .to = INFINITY, .every = 1};
    char how[16] = "";
    double a = 0, b = 0;
    int n = sscanf(rest, "%63s %d %15s %lf %lf", f->target, &f->code, how, &a, &b);
    if (n == 4 && !strcmp(how, "every")) f->every = (long)a;
    else if (n == 4 && !strcmp(how, "first")) f->first = (long)a;
    else if (n == 5 && !strcmp(how, "between")) { f->from = a; f->to = b; }
    else return n == 2;
    return f->every > 0;
}
static int read_slow(Device *d, const char *rest) {
    if (d->n_slow == MAX_SLOW) return 0;
    Slow *s = &d->slow[d->n_slow++];
    return sscanf(rest, "%63s %ld", s->target, &s->us) == 2;
}
static int read_process(Device *d, const char *rest) {
    if (d->n_processes == MAX_PROCESSES) return 0;
    Process *p = &d->process[d->n_processes++];
    char pid[32];
    *p = (Process){.from = -INFINITY, .to = INFINITY};
    if (sscanf(rest, "%31s %lf %lf %lf", pid, &p->mib, &p->from, &p->to) < 2) return 0;
    p->pid = !strcmp(pid, "self") ? (uint)getpid() : !strcmp(pid, "parent") ? (uint)getppid() : (uint)strtoul(pid, NULL, 10);
    return p->pid != 0;
}
static int read_work(Device *d, const char *rest) {
    if (d->n_work == MAX_WORK) return 0;
    Work *w = &d->work[d->n_work++];
    char pid[32];
    if (sscanf(rest, "%31s %lf %u", pid, &w->t, &w->sm) != 3) return 0;
    w->pid = !strcmp(pid, "self") ? (uint)getpid() : !strcmp(pid, "parent") ? (uint)getppid() : (uint)strtoul(pid, NULL, 10);
    return 1;
}
static int read_sensor(Device *d, const char *rest) {
    char which[16];
    double v[9];
    int n = sscanf(rest, "%15s %lf %lf %lf %lf %lf %lf %lf %lf %lf", which, v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6, v + 7, v + 8);
    if (n != 10 || v[0] <= 0) return 0;
    Sensor *s = !strcmp(which, "instant") ? &d->instant : &d->average;
    *s = (Sensor){v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], s->salt};
    return !strcmp(which, "instant") || !strcmp(which, "average");
}
static int read_point(Device *d, const char *rest) {
    char name[32], value[64];
    double t;
    if (sscanf(rest, "%lf %31s %63s", &t, name, value) != 3) return 0;
    for (int i = 0; i < N_PROFILES; i++)
        if (!strcmp(name, profile_names[i])) return profile_add(&d->profile[i], t, strtod(value, NULL));
    return 0;
}
static int read_energy(Device *d, const char *rest) {
    char mode[16] = "integrator";
    int n = sscanf(rest, "%lf %lf %15s %lf", &d->tick, &d->start_j, mode, &d->rate);
    d->counter_sums_readings = !strcmp(mode, "readings");
    return n == 4 && (d->counter_sums_readings || !strcmp(mode, "integrator"));
}
static int read_scopes(Device *d, const char *rest) {
    memset(d->scope, 0, sizeof d->scope);
    for (const char *c = rest; *c; c++)
        if (*c >= '0' && *c <= '3') d->scope[*c - '0'] = 1;
    return 1;
}
#define TEXT(field) (snprintf(field, sizeof field, "%s", rest), 1)
static int read_global(const char *key, const char *rest) {
    if (!strcmp(key, "driver_version")) return TEXT(fake.driver);
    if (!strcmp(key, "nvml_version")) return TEXT(fake.nvml);
    if (!strcmp(key, "cuda_version")) return sscanf(rest, "%d", &fake.cuda) == 1;
    if (!strcmp(key, "init_return")) return sscanf(rest, "%d", &fake.init_return) == 1;
    if (!strcmp(key, "latency_us")) return sscanf(rest, "%ld", &fake.latency_us) == 1;
    if (!strcmp(key, "epoch_ns")) return sscanf(rest, "%ld", &fake.epoch_ns) == 1;
    return 0;
}
static int read_identity(Device *d, const char *key, const char *rest) {
    if (!strcmp(key, "name")) return TEXT(d->name);
    if (!strcmp(key, "uuid")) return TEXT(d->uuid);
    if (!strcmp(key, "serial")) return TEXT(d->serial);
    if (!strcmp(key, "vbios")) return TEXT(d->vbios);
    if (!strcmp(key, "pci")) return TEXT(d->pci);
    if (!strcmp(key, "architecture")) return sscanf(rest, "%u", &d->architecture) == 1;
    if (!strcmp(key, "compute_capability")) return sscanf(rest, "%d %d", &d->major, &d->minor) == 2;
    if (!strcmp(key, "memory_total_mib")) return sscanf(rest, "%lf", &d->memory_total_mib) == 1;
    if (!strcmp(key, "mig")) return sscanf(rest, "%u", &d->mig) == 1;
    if (!strcmp(key, "persistence")) return sscanf(rest, "%u", &d->persistence) == 1;
    if (!strcmp(key, "ecc")) return sscanf(rest, "%u", &d->ecc) == 1;
    if (!strcmp(key, "fans")) return sscanf(rest, "%u", &d->fans) == 1;
    if (!strcmp(key, "limits_w")) return sscanf(rest, "%lf %lf %lf", d->limits_w, d->limits_w + 1, d->limits_w + 2) == 3;
    if (!strcmp(key, "thresholds_c"))
        return sscanf(rest, "%lf %lf %lf %lf", d->thresholds_c, d->thresholds_c + 1, d->thresholds_c + 2, d->thresholds_c + 3) == 4;
    return 0;
}
static int read_behaviour(Device *d, const char *key, const char *rest) {
    if (!strcmp(key, "at")) return read_point(d, rest);
    if (!strcmp(key, "live")) return map_live(d, rest);
    if (!strcmp(key, "sensor")) return read_sensor(d, rest);
    if (!strcmp(key, "energy")) return read_energy(d, rest);
    if (!strcmp(key, "process")) return read_process(d, rest);
    if (!strcmp(key, "work")) return read_work(d, rest);
    if (!strcmp(key, "fault")) return read_fault(d, rest);
    if (!strcmp(key, "slow")) return read_slow(d, rest);
    if (!strcmp(key, "scopes")) return read_scopes(d, rest);
    if (!strcmp(key, "power_usage")) return d->power_usage_is_average = !strcmp(rest, "average"), 1;
    if (!strcmp(key, "ring")) return sscanf(rest, "%lf", &d->ring) == 1 && d->ring > 0;
    if (!strcmp(key, "lost")) return sscanf(rest, "%lf", &d->lost_t) == 1;
    if (!strcmp(key, "counter_reset")) return sscanf(rest, "%lf", &d->reset_t) == 1;
    if (!strcmp(key, "stale")) return sscanf(rest, "%lf %lf", &d->stale_from, &d->stale_to) == 2;
    return 0;
}
static int read_statement(char *line) {
    char key[32];
    int used = 0;
    line[strcspn(line, "\r\n")] = 0;
    if (sscanf(line, " %31s %n", key, &used) != 1 || key[0] == '#') return 1;
    const char *rest = line + used;
    if (!strcmp(key, "device")) {
        if (fake.n_devices == MAX_DEVICES) return 0;
        device_defaults(&fake.device[fake.n_devices], (uint)fake.n_devices);
        fake.n_devices++;
        return 1;
    }
    if (!fake.n_devices) return read_global(key, rest);
    Device *d = &fake.device[fake.n_devices - 1];
    return read_identity(d, key, rest) || read_behaviour(d, key, rest);
}
static void load_script(void) {
    for (int i = 0; i < fake.n_devices; i++) device_free(&fake.device[i]);
    fake.n_devices = fake.init_return = fake.initialised = 0;
    fake.latency_us = 0;
    fake.epoch_ns = monotonic_ns();
    fake.cuda = 12040;
    strcpy(fake.driver, "550.54.15");
    strcpy(fake.nvml, "12.550.54.15");
    memset(fake.calls, 0, sizeof fake.calls);
    fake.loaded = 1;
    const char *path = getenv("FAKENVML_SCRIPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    int number = 0;
    if (!file) { fprintf(stderr, "fakenvml: FAKENVML_SCRIPT (%s) cannot be opened\n", path ? path : "unset"); fake.init_return = UNKNOWN; return; }
    while (fgets(line, sizeof line, file)) {
        number++;
        if (!read_statement(line)) {
            fprintf(stderr, "fakenvml: %s:%d cannot be read: %s\n", path, number, line);
            fake.init_return = UNKNOWN;
            break;
        }
    }
    fclose(file);
}

/* ---- entering and leaving a call ---- */

static void count_call(const char *name) {
    int i = 0;
    while (i < MAX_NAMES - 1 && fake.calls[i].name && strcmp(fake.calls[i].name, name)) i++;
    fake.calls[i].name = name;
    fake.calls[i].n++;
}
static int leave(int code) { pthread_mutex_unlock(&fake.lock); return code; }
static void wait_us(long us) {
    if (us <= 0) return;
    struct timespec pause = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&pause, NULL);
}
static int begin(const char *call) {
    pthread_mutex_lock(&fake.lock);
    if (!fake.loaded) load_script();
    count_call(call);
    wait_us(fake.latency_us);
    return fake.initialised > 0 ? OK : UNINITIALIZED;
}
static int faulty(Device *d, const char *target, double t) {
    for (int i = 0; i < d->n_slow; i++)
        if (!strcmp(d->slow[i].target, target)) wait_us(d->slow[i].us);
    for (int i = 0; i < d->n_faults; i++) {
        Fault *f = &d->fault[i];
        if (strcmp(f->target, target) || t < f->from || t >= f->to) continue;
        f->seen++;
        if (f->first ? f->seen <= f->first : f->seen % f->every == 0) return f->code;
    }
    return OK;
}
static int enter(Device *d, const char *call) {
    int code = begin(call);
    if (code) return code;
    if (d < fake.device || d >= fake.device + fake.n_devices) return INVALID_ARGUMENT;
    take_live(d);
    double t = now_s();
    if (t >= d->lost_t) return GPU_IS_LOST;
    code = faulty(d, call, t);
    return code ? code : faulty(d, "*", t);
}
#define BEGIN do { int code_ = begin(__func__); if (code_) return leave(code_); } while (0)
#define ENTER(d) do { int code_ = enter(d, __func__); if (code_) return leave(code_); } while (0)
#define NOW(d, which) value_at(&(d)->profile[which], now_s())

API long fakenvml_calls(const char *name) {
    pthread_mutex_lock(&fake.lock);
    long n = 0;
    for (int i = 0; i < MAX_NAMES && fake.calls[i].name; i++)
        if (!strcmp(fake.calls[i].name, name)) n = fake.calls[i].n;
    pthread_mutex_unlock(&fake.lock);
    return n;
}
API void fakenvml_reload(void) { pthread_mutex_lock(&fake.lock); load_script(); pthread_mutex_unlock(&fake.lock); }
API void fakenvml_advance(double s) { pthread_mutex_lock(&fake.lock); fake.epoch_ns -= (int64_t)(s * 1e9); pthread_mutex_unlock(&fake.lock); }
API int fakenvml_initialised(void) { return fake.initialised; }

/* ---- system ---- */

API int nvmlInitWithFlags(uint flags) {
    (void)flags;
    (void)begin(__func__);
    if (!fake.init_return) fake.initialised++;
    return leave(fake.init_return);
}
API int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API int nvmlInit(void) { return nvmlInitWithFlags(0); }
API int nvmlShutdown(void) { BEGIN; fake.initialised--; return leave(OK); }
API const char *nvmlErrorString(int code) {
    switch (code) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case 9: return "Driver Not Loaded";
    case 10: return "Timeout";
    case GPU_IS_LOST: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    case VERSION_MISMATCH: return "Argument version mismatch";
    default: return "Unknown Error";
    }
}
static int copy(char *to, uint room, const char *from) {
    if (!to) return INVALID_ARGUMENT;
    if (room <= strlen(from)) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return OK;
}
API int nvmlSystemGetDriverVersion(char *to, uint room) { BEGIN; return leave(copy(to, room, fake.driver)); }
API int nvmlSystemGetNVMLVersion(char *to, uint room) { BEGIN; return leave(copy(to, room, fake.nvml)); }
API int nvmlSystemGetCudaDriverVersion(int *to) { BEGIN; *to = fake.cuda; return leave(OK); }
API int nvmlSystemGetCudaDriverVersion_v2(int *to) { BEGIN; *to = fake.cuda; return leave(OK); }

/* ---- which device ---- */

API int nvmlDeviceGetCount_v2(uint *n) { BEGIN; *n = (uint)fake.n_devices; return leave(OK); }
API int nvmlDeviceGetHandleByIndex_v2(uint index, Device **to) {
    BEGIN;
    if (index >= (uint)fake.n_devices) return leave(INVALID_ARGUMENT);
    *to = &fake.device[index];
    return leave(now_s() >= (*to)->lost_t ? GPU_IS_LOST : OK);
}
API int nvmlDeviceGetHandleByUUID(const char *uuid, Device **to) {
    BEGIN;
    for (int i = 0; i < fake.n_devices; i++)
        if (!strcmp(fake.device[i].uuid, uuid)) { *to = &fake.device[i]; return leave(OK); }
    return leave(NOT_FOUND);
}
static int pci_parts(const char *text, uint part[4]) { return sscanf(text, "%x:%x:%x.%x", part, part + 1, part + 2, part + 3) == 4; }
API int nvmlDeviceGetHandleByPciBusId_v2(const char *id, Device **to) {
    BEGIN;
    uint a[4], b[4];
    if (!pci_parts(id, a)) return leave(INVALID_ARGUMENT);
    for (int i = 0; i < fake.n_devices; i++)
        if (pci_parts(fake.device[i].pci, b) && !memcmp(a, b, sizeof a)) { *to = &fake.device[i]; return leave(OK); }
    return leave(NOT_FOUND);
}
API int nvmlDeviceGetName(Device *d, char *to, uint room) { ENTER(d); return leave(copy(to, room, d->name)); }
API int nvmlDeviceGetUUID(Device *d, char *to, uint room) { ENTER(d); return leave(copy(to, room, d->uuid)); }
API int nvmlDeviceGetSerial(Device *d, char *to, uint room) { ENTER(d); return leave(copy(to, room, d->serial)); }
API int nvmlDeviceGetVbiosVersion(Device *d, char *to, uint room) { ENTER(d); return leave(copy(to, room, d->vbios)); }
API int nvmlDeviceGetIndex(Device *d, uint *to) { ENTER(d); *to = d->index; return leave(OK); }
API int nvmlDeviceGetMinorNumber(Device *d, uint *to) { ENTER(d); *to = d->index; return leave(OK); }
API int nvmlDeviceGetArchitecture(Device *d, uint *to) { ENTER(d); *to = d->architecture; return leave(OK); }
API int nvmlDeviceGetCudaComputeCapability(Device *d, int *major, int *minor) {
    ENTER(d);
    *major = d->major;
    *minor = d->minor;
    return leave(OK);
}
API int nvmlDeviceGetPciInfo_v3(Device *d, PciInfo *to) {
    ENTER(d);
    uint part[4] = {0};
    pci_parts(d->pci, part);
    *to = (PciInfo){.domain = part[0], .bus = part[1], .device = part[2], .pciDeviceId = 0x233110DE};
    snprintf(to->busId, sizeof to->busId, "%s", d->pci);
    snprintf(to->busIdLegacy, sizeof to->busIdLegacy, "%04X:%02X:%02X.0", part[0] & 0xFFFF, part[1] & 0xFF, part[2] & 0xFF);
    return leave(OK);
}

/* ---- modes and limits ---- */

static int modes(uint mode, uint *current, uint *pending) {
    if (mode > 1) return NOT_SUPPORTED;
    *current = *pending = mode;
    return OK;
}
API int nvmlDeviceGetMigMode(Device *d, uint *current, uint *pending) { ENTER(d); return leave(modes(d->mig, current, pending)); }
API int nvmlDeviceGetEccMode(Device *d, uint *current, uint *pending) { ENTER(d); return leave(modes(d->ecc, current, pending)); }
API int nvmlDeviceGetPersistenceMode(Device *d, uint *to) { ENTER(d); *to = d->persistence; return leave(OK); }
API int nvmlDeviceGetComputeMode(Device *d, uint *to) { ENTER(d); *to = 0; return leave(OK); }
API int nvmlDeviceGetPowerManagementMode(Device *d, uint *to) { ENTER(d); *to = 1; return leave(OK); }
static uint limit_mw(Device *d) { return (uint)lrint(1e3 * (d->profile[POWER_LIMIT].n ? NOW(d, POWER_LIMIT) : d->limits_w[1])); }
API int nvmlDeviceGetEnforcedPowerLimit(Device *d, uint *to) { ENTER(d); *to = limit_mw(d); return leave(OK); }
API int nvmlDeviceGetPowerManagementLimit(Device *d, uint *to) { ENTER(d); *to = limit_mw(d); return leave(OK); }
API int nvmlDeviceGetPowerManagementDefaultLimit(Device *d, uint *to) { ENTER(d); *to = (uint)lrint(1e3 * d->limits_w[1]); return leave(OK); }
API int nvmlDeviceGetPowerManagementLimitConstraints(Device *d, uint *low, uint *high) {
    ENTER(d);
    *low = (uint)lrint(1e3 * d->limits_w[0]);
    *high = (uint)lrint(1e3 * d->limits_w[2]);
    return leave(OK);
}

/* ---- quantities ---- */

API int nvmlDeviceGetPowerUsage(Device *d, uint *to) {
    ENTER(d);
    *to = (uint)lrint(1e3 * sensed(d, d->power_usage_is_average ? &d->average : &d->instant, now_s()));
    return leave(OK);
}
API int nvmlDeviceGetTotalEnergyConsumption(Device *d, unsigned long long *to) { ENTER(d); *to = energy_mj(d, now_s()); return leave(OK); }
API int nvmlDeviceGetTemperature(Device *d, uint sensor, uint *to) {
    ENTER(d);
    if (sensor) return leave(INVALID_ARGUMENT);
    *to = (uint)floor(NOW(d, TEMPERATURE));
    return leave(OK);
}
API int nvmlDeviceGetTemperatureThreshold(Device *d, uint type, uint *to) {
    ENTER(d);
    if (type > 3) return leave(NOT_SUPPORTED);
    *to = (uint)d->thresholds_c[type];
    return leave(OK);
}
static int clock_mhz(Device *d, uint type, uint *to) {
    static const int which[] = {GRAPHICS_CLOCK, SM_CLOCK, MEMORY_CLOCK, VIDEO_CLOCK};
    if (type > 3) return INVALID_ARGUMENT;
    *to = (uint)NOW(d, which[type]);
    return OK;
}
API int nvmlDeviceGetClockInfo(Device *d, uint type, uint *to) { ENTER(d); return leave(clock_mhz(d, type, to)); }
API int nvmlDeviceGetMaxClockInfo(Device *d, uint type, uint *to) { ENTER(d); return leave(clock_mhz(d, type, to)); }
API int nvmlDeviceGetClock(Device *d, uint type, uint id, uint *to) { ENTER(d); return leave(id > 3 ? INVALID_ARGUMENT : clock_mhz(d, type, to)); }
API int nvmlDeviceGetPerformanceState(Device *d, uint *to) { ENTER(d); *to = (uint)NOW(d, P_STATE); return leave(OK); }
API int nvmlDeviceGetUtilizationRates(Device *d, Utilization *to) {
    ENTER(d);
    *to = (Utilization){(uint)NOW(d, UTILISATION), (uint)NOW(d, MEMORY_UTILISATION)};
    return leave(OK);
}
static const double MIB = 1048576;
API int nvmlDeviceGetMemoryInfo(Device *d, Memory *to) {
    ENTER(d);
    to->total = (unsigned long long)(MIB * d->memory_total_mib);
    to->used = (unsigned long long)(MIB * NOW(d, MEMORY_USED));
    to->free = to->total - to->used;
    return leave(OK);
}
static int reasons(Device *d, unsigned long long *to) { *to = (unsigned long long)NOW(d, EVENT_REASONS); return OK; }
API int nvmlDeviceGetCurrentClocksThrottleReasons(Device *d, unsigned long long *to) { ENTER(d); return leave(reasons(d, to)); }
API int nvmlDeviceGetSupportedClocksThrottleReasons(Device *d, unsigned long long *to) { ENTER(d); *to = 0x1FF; return leave(OK); }
API int nvmlDeviceGetNumFans(Device *d, uint *to) { ENTER(d); *to = d->fans; return leave(OK); }
API int nvmlDeviceGetFanSpeed(Device *d, uint *to) { ENTER(d); *to = 30; return leave(d->fans ? OK : NOT_SUPPORTED); }
API int nvmlDeviceGetFanSpeed_v2(Device *d, uint fan, uint *to) { ENTER(d); *to = 30; return leave(fan < d->fans ? OK : NOT_SUPPORTED); }
API int nvmlDeviceGetPcieThroughput(Device *d, uint counter, uint *to) { ENTER(d); *to = 0; return leave(counter > 1 ? INVALID_ARGUMENT : OK); }
static unsigned long long cumulative_ns(Device *d, int profile) {
    const Profile *p = &d->profile[profile];
    return (unsigned long long)llrint(1e9 * (integral_to(p, now_s()) - integral_to(p, 0)));
}
API int nvmlDeviceGetViolationStatus(Device *d, uint policy, ViolationTime *to) {
    ENTER(d);
    if (policy > 1) return leave(NOT_SUPPORTED);
    *to = (ViolationTime){(unsigned long long)realtime_us(), cumulative_ns(d, SHARE_74 + (int)policy)};
    return leave(OK);
}

/* ---- field values ---- */

static int power_field(Device *d, FieldValue *f) {
    if (f->scopeId > 3) return INVALID_ARGUMENT;
    if (!d->scope[f->scopeId]) return NOT_SUPPORTED;
    f->valueType = 1;
    f->value.ui = (uint)lrint(1e3 * sensed(d, f->fieldId == 185 ? &d->average : &d->instant, now_s()));
    return OK;
}
static int counter_field(Device *d, FieldValue *f) {
    f->valueType = 3;
    if (f->fieldId == 83 || f->fieldId == 191) f->value.ull = energy_mj(d, now_s());
    else f->value.ull = cumulative_ns(d, f->fieldId <= 81 ? SHARE_74 + (int)f->fieldId - 74 : SHARE_269 + (int)f->fieldId - 269);
    return OK;
}
static int plain_field(Device *d, FieldValue *f) {
    f->valueType = 1;
    switch (f->fieldId) {
    case 82: f->value.ui = (uint)floor(NOW(d, MEMORY_TEMPERATURE)); return d->profile[MEMORY_TEMPERATURE].n ? OK : NOT_SUPPORTED;
    case 187: f->value.ui = (uint)lrint(1e3 * d->limits_w[0]); return OK;
    case 188: f->value.ui = (uint)lrint(1e3 * d->limits_w[2]); return OK;
    case 189: f->value.ui = (uint)lrint(1e3 * d->limits_w[1]); return OK;
    case 190: case 192: f->value.ui = limit_mw(d); return OK;
    default: return f->fieldId > 303 ? INVALID_ARGUMENT : NOT_SUPPORTED;
    }
}
static int read_field(Device *d, FieldValue *f) {
    char target[48];
    int code;
    snprintf(target, sizeof target, "field:%u", f->fieldId);
    if ((code = faulty(d, target, now_s()))) return code;
    snprintf(target, sizeof target, "field:%u:%u", f->fieldId, f->scopeId);
    if ((code = faulty(d, target, now_s()))) return code;
    uint id = f->fieldId;
    if (id == 185 || id == 186) return power_field(d, f);
    if ((id >= 74 && id <= 81) || id == 83 || id == 191 || (id >= 269 && id <= 271)) return counter_field(d, f);
    return plain_field(d, f);
}
API int nvmlDeviceGetFieldValues(Device *d, int n, FieldValue *f) {
    ENTER(d);
    if (n < 1 || !f) return leave(INVALID_ARGUMENT);
    for (int i = 0; i < n; i++) {
        f[i].timestamp = realtime_us();
        f[i].latencyUsec = fake.latency_us;
        f[i].value.ull = 0;
        f[i].nvmlReturn = read_field(d, &f[i]);
    }
    return leave(OK);
}

/* ---- the driver's ring of samples ---- */

API int nvmlDeviceGetSamples(Device *d, uint type, unsigned long long last, uint *value_type, uint *count, Sample *to) {
    ENTER(d);
    if (type != 0) return leave(NOT_SUPPORTED);
    *value_type = 1;
    if (!to) { *count = RING; return leave(OK); }
    int64_t wall = realtime_us();
    double t = now_s();
    long newest = (long)floor(t / d->ring);
    uint n = 0;
    for (long k = newest - RING + 1; k <= newest && n < *count; k++) {
        unsigned long long stamp = (unsigned long long)(wall - llrint(1e6 * (t - k * d->ring)));
        if (stamp <= last) continue;
        to[n].timeStamp = stamp;
        to[n++].value.ui = (uint)lrint(1e3 * sensed(d, &d->instant, k * d->ring));
    }
    *count = n;
    return leave(n ? OK : NOT_FOUND);
}

/* ---- processes ---- */

static int running(Device *d, uint *count, ProcessInfo *to) {
    uint room = *count, n = 0;
    double t = now_s();
    for (int i = 0; i < d->n_processes; i++) {
        const Process *p = &d->process[i];
        if (t < p->from || t >= p->to) continue;
        if (n < room && to) to[n] = (ProcessInfo){p->pid, (unsigned long long)(MIB * p->mib), ~0u, ~0u};
        n++;
    }
    *count = n;
    return n > room ? INSUFFICIENT_SIZE : OK;
}
API int nvmlDeviceGetComputeRunningProcesses(Device *d, uint *count, ProcessInfo *to) { ENTER(d); return leave(running(d, count, to)); }
API int nvmlDeviceGetComputeRunningProcesses_v2(Device *d, uint *count, ProcessInfo *to) { ENTER(d); return leave(running(d, count, to)); }

API int nvmlDeviceGetProcessUtilization(Device *d, ProcessUtilizationSample *to, uint *count, unsigned long long last) {
    ENTER(d);
    uint room = to ? *count : 0, n = 0;
    double t = now_s();
    int64_t wall = realtime_us();
    for (int i = 0; i < d->n_work; i++) {
        Work *w = &d->work[i];
        if (w->t > t) continue;
        if (!w->stamp) w->stamp = (unsigned long long)(wall - llrint(1e6 * (t - w->t))); /* a driver stamps a sample once */
        if (w->stamp <= last) continue;
        if (n < room) to[n] = (ProcessUtilizationSample){w->pid, w->stamp, w->sm, 0, 0, 0};
        n++;
    }
    *count = n;
    if (!n) return leave(NOT_FOUND);
    return leave(n > room ? INSUFFICIENT_SIZE : OK);
}

/* ---- what came after the 470 drivers ---- */

#ifndef FAKENVML_OLD
API int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, uint *count, ProcessInfo *to) { ENTER(d); return leave(running(d, count, to)); }
API int nvmlDeviceGetCurrentClocksEventReasons(Device *d, unsigned long long *to) { ENTER(d); return leave(reasons(d, to)); }
API int nvmlDeviceGetSupportedClocksEventReasons(Device *d, unsigned long long *to) { ENTER(d); *to = 0x1FF; return leave(OK); }
API int nvmlDeviceGetMemoryInfo_v2(Device *d, MemoryV2 *to) {
    ENTER(d);
    if (to->version != (sizeof(MemoryV2) | 2u << 24)) return leave(VERSION_MISMATCH);
    to->total = (unsigned long long)(MIB * d->memory_total_mib);
    to->used = (unsigned long long)(MIB * NOW(d, MEMORY_USED));
    to->reserved = 0;
    to->free = to->total - to->used;
    return leave(OK);
}
API int nvmlDeviceGetTemperatureV(Device *d, TemperatureV1 *to) {
    ENTER(d);
    if (to->version != (sizeof(TemperatureV1) | 1u << 24)) return leave(VERSION_MISMATCH);
    to->temperature = (int)floor(NOW(d, TEMPERATURE));
    return leave(OK);
}
API int nvmlDeviceGetMarginTemperature(Device *d, MarginV1 *to) {
    ENTER(d);
    if (to->version != (sizeof(MarginV1) | 1u << 24)) return leave(VERSION_MISMATCH);
    to->margin = (int)(d->thresholds_c[1] - floor(NOW(d, TEMPERATURE)));
    return leave(OK);
}
#endif
