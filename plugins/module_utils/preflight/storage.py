# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The preflight's look at S3: the data set, the model's folder, the program."""

from __future__ import annotations

import hashlib

from ansible_collections.flotilla.kit.plugins.module_utils import (
    aws,
    dataset_manifest,
    network_file,
    s3_urls,
    saved_model,
    untyped,
)
from ansible_collections.flotilla.kit.plugins.module_utils.preflight import findings

FILES = {"infer_model": saved_model.NAME}  # what a folder has to hold somewhere, by its variable


def _amount(sizes: list[int]) -> str:
    """Say how many files of which sizes there are."""
    if len(sizes) == 1:
        return f"1 object of {_size(sizes[0])}"
    least, most = _size(min(sizes)), _size(max(sizes))
    return f"{len(sizes):,} objects, {_size(sum(sizes))}, of {least}{f' to {most}' if least != most else ''} each"


def _size(count: float) -> str:
    """Say a number of bytes in the unit that fits."""
    units = ["TB", "GB", "MB", "kB", "B"]
    while count >= 999.5 and len(units) > 1:
        count /= 1000
        units.pop()
    return f"{count:.3g} {units[-1]}"


class Storage(findings.Findings):
    """Data set, model's folder, further folders and program."""

    # ARNs of KMS's keys with which is encrypted what nodes …
    program_keys: list[str]  # … fetch as the program
    model_keys: list[str]  # … write into the model's folder
    read_keys: list[str]  # … read in further folders
    written_keys: list[str]  # … write into further folders

    def bucket(self, bucket: str, variable: str) -> bool:
        """Check that a bucket is there and may be looked at; warn when it is in another region."""
        client = self.aws.client("s3")
        try:
            answer = client.head_bucket(Bucket=bucket)
        except Exception as error:
            status = aws.code(error)
            if status in ("404", "NoSuchBucket"):
                self.problems.append(
                    f"The bucket {bucket} of {variable} isn't there: make it, or correct the variable."
                )
            elif status == "403":
                self.problems.append(
                    f"The bucket {bucket} of {variable} may not be read by {self.result['arn']}: "
                    "it is somebody else's, or your policy lacks s3:ListBucket on it."
                )
            else:
                self.problems.append(aws.explain(error, f"look at the bucket {bucket}", self.aws.profile))
            return False
        region = answer.get("BucketRegion")
        if region and region != self.p["region"]:
            self.warnings.append(
                f"The bucket {bucket} is in {region}, the fleet in {self.p['region']}: "
                "traffic between them costs money and time."
            )
        return True

    def dataset(self) -> None:
        """Judge the data set by its manifest, held against the objects, or by the list of the objects alone."""
        url = self.p["dataset_source"]
        self.result["dataset"] = {}
        if not url:
            return
        bucket, prefix = s3_urls.split_folder(url)
        if not self.bucket(bucket, "dataset_source"):
            return
        self.of_another(bucket)
        objects = self.objects(bucket, prefix)
        if objects is None:
            return
        keys = [str(one["Key"]) for one in objects]
        sizes = {str(one["Key"]).removeprefix(prefix): int(one["Size"]) for one in objects}
        text = self.manifest(bucket, prefix) if dataset_manifest.NAME in sizes else ""
        if text is None:
            return
        if text and dataset_manifest.is_ours(text):
            self.listed_by_manifest(text, sizes, url)
        elif not self.p["program"]:
            self.problems.append(
                f"The data set {url} has no manifest.json of the kit's, and the built-in network can't know what is in "
                f"it: write one (scripts/dataset.py manifest {url}), or train a program of your own (training_program)."
            )
        else:
            self.listed_by_objects(objects, prefix, url)
        if keys and not self.problems:
            self.result["dataset"]["keys"] = self.keys(bucket, [keys[0], keys[len(keys) // 2], keys[-1]])

    def objects(self, bucket: str, prefix: str) -> list[untyped.Answer] | None:
        """List a data set's objects; None where that is a problem."""
        request = {"Bucket": bucket, "Prefix": prefix, "OptionalObjectAttributes": ["RestoreStatus"], **self.payer()}
        doing = f"list s3://{bucket}/{prefix}"
        try:
            found = self.aws.pages(doing, "s3", "list_objects_v2", "Contents", **request)
        except aws.FleetError as error:
            self.problems.append(str(error))
            return None
        if not found and prefix:
            beside = self.aws.call(doing, "s3", "list_objects_v2", **{**request, "Prefix": prefix.rstrip("/")})
            near = [str(one["Key"]) for one in beside.get("Contents", [])][:1]
            hint = f"there is {near[0]!r}, and dataset_source names a folder" if near else "correct dataset_source"
            self.problems.append(f"There is nothing in s3://{bucket}/{prefix} (dataset_source): {hint}, or upload it.")
            return None
        return list(found)

    def manifest(self, bucket: str, prefix: str) -> str | None:
        """Read a data set's manifest.json; None where that is a problem."""
        key = prefix + dataset_manifest.NAME
        try:
            body = self.aws.client("s3").get_object(Bucket=bucket, Key=key, **self.payer())["Body"].read()
        except Exception as error:
            self.problems.append(aws.explain(error, f"read s3://{bucket}/{key}", self.aws.profile))
            return None
        return str(body.decode("utf-8", "replace"))

    def listed_by_manifest(self, text: str, sizes: dict[str, int], url: str) -> None:
        """Judge a data set that has a manifest."""
        splits = () if self.p["program"] else dataset_manifest.SPLITS
        where = f"{url.rstrip('/')}/{dataset_manifest.NAME}"
        needed = [*(self.facts["columns"] or ["image"]), "label"] if self.facts else ["image", "label"]
        manifest, problems = dataset_manifest.check_manifest(text, where, splits, needed)
        self.check(problems)
        if manifest is None:
            return
        self.check(dataset_manifest.compare(manifest, sizes, url))
        if self.facts:
            self.check(network_file.judge(self.p["root"], self.p["network"], text)[1])
        self.check(dataset_manifest.check_batch(self.p["batch_size"], manifest, url))
        files = manifest["files"]
        amount = _amount([entry["size"] for entry in files])
        self.result["dataset"] = {
            "name": manifest["name"],
            "files": len(files),
            "bytes": sum(entry["size"] for entry in files),
            "records": sum(entry.get("records") or 0 for entry in files),
            "version": hashlib.sha256(text.encode()).hexdigest(),
            "says": [f"The data set {url} is {manifest['name']}, by its manifest: {amount}."],
        }

    def listed_by_objects(self, objects: list[untyped.Answer], prefix: str, url: str) -> None:
        """Judge a data set that is a folder as it is."""
        listing, problems = dataset_manifest.check_objects(objects, prefix, url)
        self.check(problems)
        if listing is None:
            return
        sizes, folders = listing["sizes"], listing["folders"]
        left_out = f"; {folders} empty objects that stand for folders are left out" if folders else ""
        self.result["dataset"] = {
            "name": url.rstrip("/").rsplit("/", 1)[-1],
            "files": len(sizes),
            "bytes": sum(sizes),
            "records": 0,
            "version": listing["version"],
            "says": [f"The data set {url} is taken as it is, without a manifest: {_amount(sizes)}{left_out}."],
        }

    def payer(self) -> dict[str, str]:
        """Return what a request says where this account pays for another's bucket."""
        return {"RequestPayer": "requester"} if self.p["requester_pays"] else {}

    def of_another(self, bucket: str) -> None:
        """Warn where a bucket is another account's, whose policy has to let the fleet's hosts in."""
        account = self.result["account"]
        try:
            self.aws.client("s3").head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
        except Exception as error:
            if aws.code(error) == "403":
                self.warnings.append(
                    f"The bucket {bucket} of dataset_source is another account's than {account}: its policy has to "
                    "allow s3:GetObject and s3:ListBucket to that account, or to the fleet's role in it."
                )

    def keys(self, bucket: str, keys: list[str]) -> list[str]:
        """Return the keys of KMS (ARNs) that some objects are encrypted with."""
        found = set()
        for key in dict.fromkeys(keys):
            try:
                head = self.aws.client("s3").head_object(Bucket=bucket, Key=key, **self.payer())
            except Exception as error:
                why = aws.explain(error, f"look at s3://{bucket}/{key}", self.aws.profile)
                self.warnings.append(f"Whether hosts need a key of KMS for the data set isn't known. {why}")
                break
            if arn := head.get("SSEKMSKeyId"):
                found.add(str(arn))
        return sorted(found)

    def folders(self) -> None:
        """Look at the buckets that nodes read, and prove that the folders they write may be written to."""
        self.model_keys, self.read_keys, self.written_keys = [], [], []
        for variable, url in self.p["reads"].items():
            bucket, prefix = s3_urls.split_folder(url)
            if self.bucket(bucket, variable):
                request = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": 1000}
                answer = self.aws.call(f"list {url}", "s3", "list_objects_v2", **request)
                names = [str(one["Key"]) for one in answer.get("Contents", [])]
                wanted = FILES.get(variable, "")
                if not names:
                    self.problems.append(f"There is nothing in {url} ({variable}): correct it, or upload something.")
                elif not answer.get("IsTruncated") and not any(name.endswith(wanted) for name in names):
                    self.problems.append(f"{url} ({variable}) holds no {wanted}: name a SavedModel's folder.")
                elif wanted:
                    self.model(bucket, prefix, names, url)
                self.read_keys += self.keys(bucket, [names[0], names[len(names) // 2], names[-1]] if names else [])
        if self.p["model_target"]:
            self.model_keys = self.writable(self.p["model_target"], "store_target")
        for variable, url in self.p["writes"].items():
            if url:
                self.written_keys += self.writable(url, variable)

    def model(self, bucket: str, prefix: str, names: list[str], url: str) -> None:
        """Look at what a SavedModel takes and gives; of several, none of which is meant, a host says so."""
        graphs = [name for name in names if name.rpartition("/")[2] == saved_model.NAME]
        usual = (prefix + saved_model.NAME, f"{prefix}saved_model/{saved_model.NAME}")
        meant = [name for name in usual if name in graphs]
        if not (meant or len(graphs) == 1) or not saved_model.HAS_PROTOBUF:
            return
        answer = self.aws.call(f"read {url}", "s3", "get_object", Bucket=bucket, Key=(meant or graphs)[0])
        if answer["ContentLength"] <= saved_model.MOST_BYTES:
            self.result["model"], problems = saved_model.judge(answer["Body"].read(), self.p["signature"], url)
            self.check(problems)

    def writable(self, url: str, variable: str) -> list[str]:
        """Prove that a folder may be written to, and leave nothing there; return the keys of KMS that encrypt it."""
        bucket, prefix = s3_urls.split_folder(url)
        if not self.bucket(bucket, variable):
            return []
        client = self.aws.client("s3")
        key = prefix + ".flotilla-write-test"
        try:
            upload = client.create_multipart_upload(Bucket=bucket, Key=key)
            client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload["UploadId"])
        except Exception as error:
            self.problems.append(aws.explain(error, f"write to {url} ({variable})", self.aws.profile))
            return []
        # As the bucket has it by default: what nodes write says nothing of encryption.
        return [str(key)] if (key := upload.get("SSEKMSKeyId")) else []

    def program(self) -> None:
        """Look at the program from where the nodes will fetch it, if that is S3."""
        self.program_keys = []
        url = self.p["program"]
        if not url.startswith("s3://"):
            return
        bucket, key = s3_urls.split_program(url)
        try:
            head = self.aws.client("s3").head_object(Bucket=bucket, Key=key)
        except Exception as error:
            status = aws.code(error)
            if status in ("404", "NoSuchBucket", "NoSuchKey"):
                self.problems.append(
                    f"There is no object {key} in the bucket {bucket}, or no such bucket: upload the program there, "
                    "or correct training_program."
                )
            elif status == "403":
                self.problems.append(
                    f"The object {key} in the bucket {bucket} (training_program) may not be read by "
                    f"{self.result['arn']}: it isn't there, or your policy lacks s3:GetObject on it."
                )
            else:
                self.problems.append(aws.explain(error, f"look at {url} (training_program)", self.aws.profile))
            return
        self.program_keys = [str(arn)] if (arn := head.get("SSEKMSKeyId")) else []
        if head["ContentLength"] > s3_urls.PROGRAM_LIMIT:
            self.problems.append(
                f"training_program {url} is larger than {s3_urls.PROGRAM_LIMIT // 10**6} MB: "
                "data belong into dataset_source."
            )
