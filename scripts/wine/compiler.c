/* cl.exe and link.exe for programs in Wine: runs the host's program of the same name (scripts/wine/host), and waits for it.
   Wine starts programs of the host but does not wait for them, so the exit status and the output come back in files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

int main(int argc, char **argv) {
    const char *host = getenv("WINE_HOST_COMPILER");  /* path of scripts/wine/host, as the host writes it */
    char folder[MAX_PATH], job[MAX_PATH + 32], file[MAX_PATH + 64], unix_job[MAX_PATH + 32], command[4 * MAX_PATH], line[4096];
    if (!host || !GetEnvironmentVariableA("WINE_HOST_JOBS", folder, sizeof folder)) return 90;
    LARGE_INTEGER now;  /* process ids come again at once */
    QueryPerformanceCounter(&now);
    snprintf(unix_job, sizeof unix_job, "%s/%lu-%lld", folder, GetCurrentProcessId(), now.QuadPart);
    snprintf(job, sizeof job, "Z:%s", unix_job);
    char own[MAX_PATH];
    GetModuleFileNameA(NULL, own, sizeof own);
    const char *name = strrchr(own, '\\') + 1;

    snprintf(file, sizeof file, "%s.arguments", job);
    FILE *arguments = fopen(file, "wb");
    if (!arguments) return 91;
    GetCurrentDirectoryA(sizeof line, line);
    fprintf(arguments, "%s\n%s\n", line, name);
    for (int i = 1; i < argc; i++) fprintf(arguments, "%s\n", argv[i]);
    fclose(arguments);

    STARTUPINFOA start = {.cb = sizeof start};
    PROCESS_INFORMATION process;
    snprintf(command, sizeof command, "%s %s", host, unix_job);
    char program[MAX_PATH];
    snprintf(program, sizeof program, "Z:%s", host);
    if (!CreateProcessA(program, command, NULL, NULL, FALSE, 0, NULL, NULL, &start, &process)) {
        fprintf(stderr, "%s: Wine cannot start %s: error %lu\n", name, host, GetLastError());
        return 92;
    }
    snprintf(file, sizeof file, "%s.status", job);
    FILE *status;
    while (!(status = fopen(file, "rb"))) Sleep(10);
    int code = 93;
    if (fscanf(status, "%d", &code) != 1) code = 94;
    fclose(status);
    snprintf(file, sizeof file, "%s.output", job);
    FILE *output = fopen(file, "rb");
    while (output && fgets(line, sizeof line, output)) fputs(line, stdout);
    if (output) fclose(output);
    return code;
}
