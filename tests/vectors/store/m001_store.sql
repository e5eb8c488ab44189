BEGIN TRANSACTION;
CREATE TABLE "_sqlite_migrations" (
   "id" INTEGER PRIMARY KEY,
   "migration_set" TEXT,
   "name" TEXT,
   "applied_at" TEXT
);
INSERT INTO "_sqlite_migrations" VALUES(1,'edge-runtime','m001_store','2026-11-24 04:51:50.280305+00:00');
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "meta" VALUES('clock','{"device": 12.5, "wall": 1800000000.0, "boottime": 100.0, "boot_id": "boot-1"}');
CREATE TABLE seal_key (id TEXT PRIMARY KEY, first_used REAL NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "seal_key" VALUES('1d3685e7',0.0);
CREATE UNIQUE INDEX "idx__sqlite_migrations_migration_set_name"
    ON "_sqlite_migrations" ("migration_set", "name");
COMMIT;
